"""installed.files: owner, mode and content of everything below the prefix, as recorded when it was installed."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path

from verify.files import small_text
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.tables import table

RECORD_BYTES = 1 << 24
"""Bound for a record: one line a file of the installation, without its environments."""
REMEDY = "./firstlight provision restores what it installed; what it did not install, it leaves: remove that, or move it elsewhere"


@dataclass(frozen=True)
class Recorded:
    """The records of an installation."""

    owned: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Mode and owner of each path (PREFIX/state.files)."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    sums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of small files (PREFIX/state.sha256, state.secrets)."""


def run(context: CheckContext) -> CheckResult:
    if context.service is None or context.faults:
        return evaluate(1, ["/opt/firstlight/bin/x has mode 0777 of user 0, recorded with 0755 of 0"])
    prefix, key = context.service.prefix, context.service.api_key()
    record = recorded(
        *(small_text(prefix / f"state.{name}", limit=RECORD_BYTES) for name in ("files", "sha256", "secrets"))
    )
    if not record.owned:
        remedy = "./firstlight provision records it again"
        return CheckResult("error", f"{prefix}/state.files cannot be read", remedy=remedy)
    found = (differing(record), unknown(prefix, record.owned), exposed(prefix), copies(prefix, key) if key else ())
    return evaluate(len(record.owned), [*chain.from_iterable(found)])


def evaluate(count: int, problems: Sequence[str]) -> CheckResult:
    """Fail on every problem of an installation with a number of recorded files and folders."""
    figures = (Figure("recorded files and folders", count, "count"),)
    found = [Observation("fail", text, REMEDY) for text in problems]
    healthy = (
        f"{count} files and folders are as recorded, nobody else may change what is served, and no other file is there"
    )
    return combine(found, healthy, figures, {"problems": problems[:100]})


def recorded(files: str, sums: str, secrets: str) -> Recorded:
    """Parse the records of an installation."""
    rows = [line.split(" ", 6) for line in files.splitlines() if line.count(" ") >= 6]
    return Recorded(
        {path: (int(mode, 8), int(uid)) for mode, uid, _, _, _, _, path in rows},
        {path: int(size) for _, _, _, size, _, _, path in rows if size.isdigit()},
        {
            path: digest
            for digest, _, path in (line.partition("  ") for text in (sums, secrets) for line in text.splitlines())
        },
    )


def differing(record: Recorded) -> Iterator[str]:
    """Yield what has another mode, owner, size or content than recorded, or is gone."""
    for path, (mode, uid) in record.owned.items():
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            yield f"{path} is gone"
            continue
        if (stat.S_IMODE(found.st_mode), found.st_uid) != (mode, uid):
            yield f"{path} has mode {stat.S_IMODE(found.st_mode):04o} of user {found.st_uid}, recorded with {mode:04o} of {uid}"
        if path not in record.sums and record.sizes.get(path, found.st_size) != found.st_size:
            yield f"{path} has {found.st_size} bytes, recorded with {record.sizes[path]}"
    for path, digest in record.sums.items():
        try:
            content = Path(path).read_bytes()
        except FileNotFoundError:
            if path not in record.owned:
                yield f"{path} is gone"
            continue
        if hashlib.sha256(content).hexdigest() != digest:
            yield f"{path} has another content than recorded"


def unknown(prefix: Path, known: Iterable[str]) -> Iterator[str]:
    """Yield files that were neither recorded nor written by this product later."""
    rows, names = table("installed")["files"], {os.path.relpath(path, prefix) for path in known}
    for path in prefix.iterdir():
        if path.is_file() and not path.is_symlink() and not any(fnmatchcase(path.name, each) for each in rows["top"]):
            yield f"{path} is unknown: nobody installed it"
    for folder in rows["recorded"]:
        for above, folders, files in os.walk(prefix / folder):
            here = os.path.relpath(above, prefix)
            for name in (*folders, *files):
                place = f"{here}/{name}"
                if place not in names and not any(
                    fnmatchcase(place, f"{each}{end}") for each in rows["later"] for end in ("", "/*")
                ):
                    yield f"{prefix}/{place} is unknown: nobody installed it"


def exposed(prefix: Path) -> Iterator[str]:
    """Yield what others than the owner of the installation may change, among what decides what is served."""
    owner = prefix.stat()
    for folder in table("installed")["files"]["protected"]:
        for above, folders, files in os.walk(prefix / folder):
            for name in (*folders, *files):
                found = os.lstat(path := f"{above}/{name}")
                if stat.S_ISLNK(found.st_mode):
                    continue
                others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != owner.st_gid)
                if others or found.st_uid not in (0, owner.st_uid):
                    yield f"{path} may be changed by others (mode {stat.S_IMODE(found.st_mode):04o} of user {found.st_uid})"


def copies(prefix: Path, key: str) -> Iterator[str]:
    """Yield files with the key that everybody may read: in the folders of the installation, and directly in well-known ones."""
    rows = table("installed")["files"]
    below = (
        Path(above, name)
        for folder in (*rows["recorded"], "logs", "verify")
        for above, _, names in os.walk(prefix / folder)
        for name in names
    )
    outside = (path for pattern in rows["copies"] for path in Path("/").glob(f"{pattern[1:]}/*"))
    for path in (*prefix.iterdir(), *below, *outside):
        try:
            is_open = path.stat().st_mode & stat.S_IROTH
        except OSError:
            continue
        if is_open and key in small_text(path):
            yield f"{path} has the API key, and everybody may read it"

"""libraries.files: the installed files are those that were installed.

What is held against is the manifest that was written when the environment was built, from what its wheels contain. An environment without one
is held against the wheels' RECORDs, which say less: some have sizes from before their libraries were changed, and files that several wheels
bring have a line in each.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import sys
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution
from pathlib import Path
from typing import NamedTuple

from verify.distributions import installed
from verify.records import Check, Context, Figure, Outcome

SHOWN = 5
MANIFEST = "manifest.txt"
REMEDY = "install the environment anew from its lock: ./firstlight provision"


class Content(NamedTuple):
    """What a file may hold: a digest as a RECORD writes it (`sha256=...`, urlsafe base64 without padding) or `crc32=` and 8 hex digits; bytes."""

    digest: str
    size: int


Contents = Mapping[str, tuple[Content, ...]]
"""By path. Several where several wheels bring a file: any of them is right."""


def _run(context: Context) -> Outcome:
    by_content = context.reaches("full")
    contents, unrecorded = manifest_contents(Path(sys.prefix)), list[str]()
    from_manifest = contents is not None
    if contents is None:
        found = [distribution for same in installed().values() for distribution in same]
        contents = record_contents(found)
        unrecorded = [item.metadata["Name"] for item in found if not item.read_text("RECORD")]
    if "stale-library" in context.faults and contents:
        path, (first, *_) = next(iter(contents.items()))
        contents = {**contents, path: (first._replace(size=first.size + 1),)}
    wrong = check_files(contents, by_content=by_content)
    how = "content" if by_content else "size"
    size = sum(any_of[0].size for any_of in contents.values())
    figures = (Figure("files", len(contents), "count"), Figure("bytes", size, "B"))
    held = MANIFEST if from_manifest else "RECORD"
    evidence = {"compared by": how, "with": held, "wrong": list(wrong.values())[:100], "without RECORD": unrecorded}
    if wrong:
        # Without a manifest only what is absent is surely damaged.
        damaged = from_manifest or not all(map(os.path.exists, wrong))
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        doubt = "" if damaged else " (by RECORD, which some wheels carry wrong; this environment has no manifest)"
        text = f"{'; '.join(list(wrong.values())[:SHOWN])}{more}{doubt}"
        return Outcome("fail" if damaged else "warn", text, figures, evidence, REMEDY)
    if unrecorded or not contents:
        text = f"no RECORD to compare with: {', '.join(unrecorded) or 'nothing is installed'}"
        return Outcome("warn", text, figures, evidence)
    return Outcome("ok", f"{len(contents)} files are as installed, by {how}", figures, evidence)


def manifest_contents(home: Path) -> Contents | None:
    """The files of an environment as they were when it was built; null where it has no manifest."""
    try:
        text = (home / MANIFEST).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    lines = (line.split(" ", 2) for line in text.splitlines())
    return {f"{home}/{path}": (Content(f"crc32={crc}", int(size)),) for crc, size, path in lines}


def record_contents(distributions: Iterable[Distribution]) -> Contents:
    """The files whose RECORD line has a hash; compiled bytecode and the RECORD itself have none."""
    found: dict[str, tuple[Content, ...]] = {}
    for distribution in distributions:
        home = distribution.locate_file("")
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if len(row) == 3 and row[1] and row[2]:
                path = f"{home}/{row[0]}"
                found[path] = (*found.get(path, ()), Content(row[1], int(row[2])))
    return found


def check_files(contents: Contents, *, by_content: bool) -> dict[str, str]:
    """What is wrong by path. Hashing releases the interpreter's lock, so threads share that work."""
    if by_content:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            texts = pool.map(lambda item: _wrong(*item, by_content=True), contents.items())
            return {path: text for path, text in zip(contents, texts, strict=True) if text}
    return {path: text for path, any_of in contents.items() if (text := _wrong(path, any_of, by_content=False))}


def _wrong(path: str, any_of: tuple[Content, ...], *, by_content: bool) -> str | None:
    try:
        size = os.stat(path).st_size  # noqa: PTH116 - tens of thousands of files: a Path each costs as much again
    except OSError as error:
        return f"{path}: {error.strerror}"
    alike = [content for content in any_of if content.size == size]
    if not alike:
        return f"{path}: {size} bytes, recorded {any_of[0].size}"
    if not by_content or any(_digest(path, content.digest.partition("=")[0]) == content.digest for content in alike):
        return None
    return f"{path}: its content is not the recorded one"


def _digest(path: str, algorithm: str) -> str:
    """A file's digest, in the spelling of Content."""
    crc, digest = 0, None if algorithm == "crc32" else hashlib.new(algorithm)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            if digest:
                digest.update(chunk)
            else:
                crc = zlib.crc32(chunk, crc)
    if digest is None:
        return f"crc32={crc:08x}"
    return f"{algorithm}={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()}"


CHECK = Check(
    id="libraries.files",
    proves="Every installed file is there with the size that it had when the environment was built from its wheels; on full with the same content.",
    run=_run,
    level="standard",
    faults=("stale-library",),
    deadline_s=420.0,
)

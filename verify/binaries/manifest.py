"""Expected content of an environment's files, from the manifest of its build or its wheels' RECORDs, and stamps of verified files.

Stamps are size, times and inode; unchanged files are not read again soon. Byte code that was compiled when the environment was built is
compared with its source.
"""

import base64
import csv
import fcntl
import hashlib
import importlib.util
import json
import marshal
import os
import stat
import warnings
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution
from pathlib import Path
from typing import Literal, NamedTuple

from verify.files import read_json, write_atomically

MANIFEST = "manifest.txt"
CRC = "crc32"
STAMPS = "verify/files.json"
"""Relative to the prefix; of the environment's files."""


class Content(NamedTuple):
    """Expected content: size in bytes, and a digest as in a RECORD (`sha256=...`, urlsafe base64 without padding) or `crc32=` and 8 hex digits."""

    digest: str
    size: int


Contents = Mapping[str, tuple[Content, ...]]
"""By path. A file of several wheels may have any of their contents."""


def listed(file: Path, home: Path) -> Contents | None:
    """Return the files below `home` that a manifest lists; None if there is no such manifest."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    lines = (line.split(" ", 2) for line in text.splitlines())
    return {f"{home}/{path}": (Content(f"{CRC}={crc}", int(size)),) for crc, size, path in lines}


def record_contents(distributions: Iterable[Distribution]) -> Contents:
    """Return the files with a hash in a RECORD; compiled byte code and the RECORD itself have none."""
    found: dict[str, tuple[Content, ...]] = {}
    for distribution in distributions:
        home = distribution.locate_file("")
        for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if len(row) == 3 and row[1] and row[2]:
                path = f"{home}/{row[0]}"
                found[path] = (*found.get(path, ()), Content(row[1], int(row[2])))
    return found


def wrong_sizes(contents: Contents) -> dict[str, str]:
    """Return the differences in size by path."""
    return {path: text for path, any_of in contents.items() if (text := _wrong(path, any_of, by_content=False))}


def wrong_contents(contents: Contents) -> dict[str, str]:
    """Return the differences by path. Hashing releases the interpreter's lock, so threads share the work."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        texts = pool.map(lambda item: _wrong(*item, by_content=True), contents.items())
        return {path: text for path, text in zip(contents, texts, strict=True) if text}


def _wrong(path: str, any_of: tuple[Content, ...], *, by_content: bool) -> str | None:
    try:
        # A manifest lists a link by its target. No Path objects: for tens of thousands of files they cost as much again.
        found = os.lstat(path) if any_of[0].digest.startswith(CRC) else os.stat(path)  # noqa: PTH116
        is_link = stat.S_ISLNK(found.st_mode)
        same_size = [content for content in any_of if content.size == found.st_size]
        if not same_size:
            return f"{path}: {found.st_size} bytes, recorded {any_of[0].size}"
        if not by_content:
            return None
        if is_link:
            target = f"{CRC}={zlib.crc32(os.fsencode(os.readlink(path))):08x}"  # noqa: PTH115 - see above
            return None if target == same_size[0].digest else f"{path}: it points elsewhere than recorded"
        if any(_digest(path, content.digest.partition("=")[0]) == content.digest for content in same_size):
            return None
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}: its content is not the recorded one"


def _digest(path: str, algorithm: str) -> str:
    crc, digest = 0, None if algorithm == CRC else hashlib.new(algorithm)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            if digest:
                digest.update(chunk)
            else:
                crc = zlib.crc32(chunk, crc)
    if digest is None:
        return f"{CRC}={crc:08x}"
    return f"{algorithm}={base64.urlsafe_b64encode(digest.digest()).rstrip(b'=').decode()}"


FileStamp = tuple[int, int, int, int]
"""Size in bytes, modification and change time in nanoseconds, inode."""
FileStamps = Mapping[str, "FileStamp | None"]
"""By path. None marks a file with wrong content, which is read again every time."""


def file_stamp(path: str) -> FileStamp | None:
    """Return the stamp of a file; None if it cannot be read."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def load_stamps(prefix: Path | None, home: Path, file: str = STAMPS) -> dict[str, FileStamp | None]:
    """Read the stamps of the environment or other folder `home`; empty if there are none."""
    document = read_json(prefix / file) if prefix else {}
    if document.get("environment") != home.name:
        return {}
    try:
        return {f"{home}/{path}": tuple(mark) if mark else None for path, mark in document["files"].items()}
    except (KeyError, TypeError, AttributeError):  # damaged: then all files are read again
        return {}


def save_stamps(prefix: Path, home: Path, marks: FileStamps, file: str = STAMPS) -> None:
    """Write the stamps of the environment or other folder `home`. Raises OSError."""
    start = len(f"{home}/")
    document = {"environment": home.name, "files": {path[start:]: mark for path, mark in marks.items()}}
    write_atomically(prefix / file, json.dumps(document, separators=(",", ":")))


def mapped_files(home: Path) -> frozenset[str]:
    """Return the files below a folder that running processes have mapped, as far as this user may see them."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "maps").read_text(errors="surrogateescape")
        except OSError:  # the process ended, or belongs to another user
            continue
        found |= {line[line.index("/") :] for line in text.splitlines() if f" {home}/" in line}
    return frozenset(found)


BYTE_CODE_LIST = "bytecode.txt"
"""In the environment's folder; written when everything has been compiled."""
COMPILING = ".compiling"
"""Next to it; locked by the process that compiles."""
HEADER_BYTES = 16


def listing(home: Path) -> Literal["there", "under way", "absent"]:
    """Return the state of an environment's byte code list: an environment is in use before it is compiled."""
    if (home / BYTE_CODE_LIST).exists():
        return "there"
    try:
        with (home / COMPILING).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "under way"
    except OSError:
        pass
    # It may have been written since.
    return "there" if (home / BYTE_CODE_LIST).exists() else "absent"


def stands_for_source(path: str) -> bool:
    """Return whether a file of byte code equals what this Python compiles from its source.

    The marshalled bytes of a source vary between runs, its code objects do not.
    """
    try:
        source = Path(importlib.util.source_from_cache(path))
        content = Path(path).read_bytes()
        if content[:4] != importlib.util.MAGIC_NUMBER:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
        return bool(marshal.loads(content[HEADER_BYTES:]) == expected)  # noqa: S302 - in a process of its own; never run
    except (OSError, ValueError, EOFError, TypeError, SyntaxError):
        return False

"""Expected content of the files of an environment or a model, from the manifest that was written with them, and stamps of verified files.

Stamps are size, times and inode; unchanged files are not read again soon. Byte code that was compiled when the environment was built is
compared with its source.
"""

import fcntl
import importlib.util
import json
import marshal
import os
import stat
import time
import warnings
import zlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from verify.files import read_json, write_atomically

MANIFEST = "manifest.txt"
STAMPS = "verify/files.json"
"""Relative to the prefix; of the environment's files."""
UNSEEN_BYTES = 1 << 29
"""Share of never-read files that a standard run reads. For 15,000 small files about 1.5 s of CPU time (0.35 GB/s, 43 us per file)."""
READING_S = 300.0
"""Seconds after which a run starts no further file; the next run continues."""


class Content(NamedTuple):
    """Expected content: CRC-32 as 8 hex digits, and size in bytes; of a link those of its target's path, or of the target."""

    crc: str
    size: int


Contents = Mapping[str, Content]
"""By path."""


def listed(file: Path, home: Path) -> dict[str, Content] | None:
    """Return the files below `home` that a manifest lists; None if there is no such manifest."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    lines = (line.split(" ", 2) for line in text.splitlines())
    return {f"{home}/{path}": Content(crc, int(size)) for crc, size, path in lines}


@dataclass(frozen=True)
class ComparedFiles:
    """Result of a comparison."""

    files: int
    read: int
    """Number of files compared by content."""
    never_read: int = 0
    wrong: Mapping[str, str] = field(default_factory=dict)
    """The differences by path."""


def compare(
    contents: Contents,
    home: Path,
    prefix: Path | None,
    record: str,
    *,
    whole: bool,
    always: Collection[str] = (),
    excused: Callable[[str], bool] = lambda _: False,
) -> ComparedFiles:
    """Compare the files of an environment or a model: the sizes of all, and the content of some, with `whole` of all.

    Read are the files of `always`, those whose stamp changed since they were read, and some that were never read. Stamps are in the file
    `record` of the prefix, if there is one. A difference for which `excused` is true is none.
    """
    known, stamps = load_stamps(prefix, home, record), {path: file_stamp(path) for path in contents}
    wrong = {path: text for path, content in contents.items() if (text := _wrong(path, content, by_content=False))}
    left, due = UNSEEN_BYTES, list[str]()
    for path in sorted((path for path in contents if path not in wrong), key=known.__contains__):
        is_due = whole or path in always or (path in known and known[path] != stamps[path])
        if is_due or (path not in known and contents[path].size <= left):
            due.append(path)
            left -= 0 if is_due else contents[path].size
    until = time.monotonic() + READING_S

    def answer(path: str) -> str | None:
        """Return what is wrong, an empty text for nothing; None if there was no time to read the file."""
        return (_wrong(path, contents[path], by_content=True) or "") if time.monotonic() < until else None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # hashing releases the interpreter's lock
        answers = zip(due, pool.map(answer, due), strict=True)
        read = {path: text for path, text in answers if text is not None}
    wrong |= {path: text for path, text in read.items() if text}
    wrong = {path: text for path, text in wrong.items() if not excused(path)}
    now = {path: stamp for path, stamp in known.items() if path in contents}
    now |= {path: None if path in wrong else stamps[path] for path in read}
    if prefix and now != known:
        start = len(f"{home}/")
        document = {"environment": home.name, "files": {path[start:]: stamp for path, stamp in now.items()}}
        with suppress(OSError):  # this user may not write there: the next run reads them again
            write_atomically(prefix / record, json.dumps(document, separators=(",", ":")))
    return ComparedFiles(len(contents), len(read), len(contents.keys() - now.keys()), wrong)


def _wrong(path: str, content: Content, *, by_content: bool) -> str | None:
    try:
        # No Path objects: for tens of thousands of files they cost as much again.
        found = os.lstat(path)
        if stat.S_ISLNK(found.st_mode):
            target = os.fsencode(os.readlink(path))  # noqa: PTH115 - see above
            if content == (f"{zlib.crc32(target):08x}", len(target)):
                return None
            found = os.stat(path)  # noqa: PTH116 - of a model on a share
        if found.st_size != content.size:
            return f"{path}: {found.st_size} bytes, recorded {content.size}"
        if by_content and _crc(path) != content.crc:
            return f"{path}: its content is not the recorded one"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None


def _crc(path: str) -> str:
    crc = 0
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"


FileStamp = tuple[int, int, int, int]
"""Size in bytes, modification and change time in nanoseconds, inode."""


def file_stamp(path: str) -> FileStamp | None:
    """Return the stamp of a file, of a link that of its target; None if it cannot be read."""
    try:
        found = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def load_stamps(prefix: Path | None, home: Path, file: str) -> dict[str, FileStamp | None]:
    """Read the stamps of the files below `home` by path; empty if there are none. None marks wrong content, which is read every time."""
    document = read_json(prefix / file) if prefix else {}
    if document.get("environment") != home.name:
        return {}
    try:
        return {f"{home}/{path}": tuple(mark) if mark else None for path, mark in document["files"].items()}
    except (KeyError, TypeError, AttributeError):  # damaged: then all files are read again
        return {}


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

"""Size, times and inode of files whose content was verified; unchanged files are not read again soon."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from verify.files import write_atomically

FILE = "verify/files.json"
"""Relative to the prefix."""

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


def load(prefix: Path | None, home: Path, file: str = FILE) -> dict[str, FileStamp | None]:
    """Read the stamps of the environment or other folder `home`; empty if there are none."""
    try:
        document = json.loads((prefix / file).read_text()) if prefix else {}
        if document.get("environment") != home.name:
            return {}
        return {f"{home}/{path}": tuple(mark) if mark else None for path, mark in document["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(prefix: Path, home: Path, marks: FileStamps, file: str = FILE) -> None:
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

"""How the files of an environment looked when their content was compared last: what looks the same since needs no second reading soon."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from verify.files import write_atomically

FILE = "verify/files.json"
"""Below the prefix."""

FileStamp = tuple[int, int, int, int]
"""Size in bytes, times of the last change of content and of inode in nanoseconds, inode."""
FileStamps = Mapping[str, "FileStamp | None"]
"""By path. Null for a file whose content was wrong: it is read again each time."""


def file_stamp(path: str) -> FileStamp | None:
    """How a file looks now; null where it cannot be looked at."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def load(prefix: Path | None, home: Path, file: str = FILE) -> dict[str, FileStamp | None]:
    """The marks that were kept of the environment, or other folder, `home`; empty where there are none of it."""
    try:
        document = json.loads((prefix / file).read_text()) if prefix else {}
        if document.get("environment") != home.name:
            return {}
        return {f"{home}/{path}": tuple(mark) if mark else None for path, mark in document["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def save(prefix: Path, home: Path, marks: FileStamps, file: str = FILE) -> None:
    """Keep marks of the environment, or other folder, `home`. Raises OSError, as where this user may not write there."""
    start = len(f"{home}/")
    document = {"environment": home.name, "files": {path[start:]: mark for path, mark in marks.items()}}
    write_atomically(prefix / file, json.dumps(document, separators=(",", ":")))


def mapped_files(home: Path, processes: Iterable[Path] | None = None) -> frozenset[str]:
    """The files below a folder that running processes have mapped, as far as this user may look; `processes` are folders of /proc."""
    found: set[str] = set()
    for process in processes if processes is not None else Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "maps").read_text(errors="surrogateescape")
        except OSError:  # it ended, or is somebody else's
            continue
        found |= {line[line.index("/") :] for line in text.splitlines() if f" {home}/" in line}
    return frozenset(found)

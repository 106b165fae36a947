"""The wheelhouse: every file once, by its sha256, verified when it was stored.

    ROOT/files/AB/ABCD.../NAME      the file
    ROOT/files/AB/ABCD.../verified  its size and time of change when its hash was last seen right; touched at each use
    ROOT/files/AB/ABCD.../NAME.part what has come so far of a file that is being fetched
    ROOT/locks/ ROOT/tools/ ...     what stage remembers between runs, a small JSON file a key
    ROOT/references/HOST.json       which files the environments of a host need

A file whose size or time of change is not the one that was noted is hashed again at its next use; a damaged one is removed and counts as
absent. Any number of processes may work on one wheelhouse.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from provision.core.errors import StageError
from provision.core.formatting import GIB, size
from provision.core.models.staged import FileKind, StagedFile
from provision.core.run_folder import write_atomically
from provision.phases.stage.references import References

BLOCK = 1 << 20
_STAMP = "verified"
_LOCK = ".lock"
_TRIES = 20
"""Times that a folder may be pruned in a row while its lock is taken."""
_DEFAULT_LIMIT_GIB = 200.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOSTILE = "who serves this list is broken or hostile: name another index or hub"


def default_limit(environ: Mapping[str, str] | None = None) -> int:
    """Bytes that the wheelhouse may take: FIRSTLIGHT_CACHE_GIB, else 200 GiB.

    Raises StageError when the variable is not a positive number.
    """
    text = (os.environ if environ is None else environ).get("FIRSTLIGHT_CACHE_GIB", "")
    try:
        limit = (float(text) if text else _DEFAULT_LIMIT_GIB) * GIB
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:
        raise StageError(
            f"FIRSTLIGHT_CACHE_GIB is `{text}`", hint="set it to a size in GiB, such as 100, or leave it unset"
        )
    return int(limit)


def sha256_of(path: Path, *, feed: Callable[[int], None] | None = None) -> str:
    """The file's sha256, read in blocks; `feed` is told the size of each."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if feed:
                feed(len(block))
    return digest.hexdigest()


def plain_name(path: str) -> str:
    """What a file of a model is called here, where names have no folders."""
    return path.replace("/", "--")


def is_plain(path: str) -> bool:
    """Whether a path that somebody else named stays below the folder that it is for: relative, no `..`, printable."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not any(part in {"", ".", ".."} for part in parts)


class Slot:
    """The place of one file while its lock is held."""

    def __init__(self, store: Store, sha256: str, name: str) -> None:
        self._store, self.sha256, self.name = store, sha256, name
        self._path = store.path(sha256, name)
        self.folder = self._path.parent
        self.part = self._path.with_name(f"{name}.part")

    def stored(self) -> Path | None:
        """The file, when another run has put it there meanwhile."""
        return self._store.find(self.sha256, self.name)

    def commit(self, digest: str) -> Path:
        """Make the part the file: synced to disk, then renamed, then stamped.

        Raises StageError, and removes the part, when `digest` is not the hash that was asked for.
        """
        if digest != self.sha256:
            self.part.unlink(missing_ok=True)
            raise StageError(
                f"`{self.name}` has the wrong hash: sha256 is `{digest}`, locked is `{self.sha256}`",
                hint="the index serves another file than the one it announced; try again, or tell who runs that index",
            )
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self._path)
        self._store.stamp(self._path)
        return self._path


class Store:
    """A wheelhouse on the controller."""

    def __init__(self, root: Path, *, limit_bytes: int | None = None) -> None:
        self.root = root
        self.limit_bytes = default_limit() if limit_bytes is None else limit_bytes
        self.references = References(root / "references")

    def folder(self, sha256: str) -> Path:
        """The folder of a file. Raises StageError for a hash that is none: indexes and hubs name it, and it becomes a path."""
        if not _SHA256.fullmatch(sha256):
            raise StageError(f"`{sha256[:80]}` is no sha256: 64 digits, 0 to 9 and a to f", hint=_HOSTILE)
        return self.root / "files" / sha256[:2] / sha256

    def path(self, sha256: str, name: str) -> Path:
        """Where a file lies, whether it is here or not. Raises StageError for a name that is no file's in that folder."""
        if not is_plain(name) or "/" in name or name in {_STAMP, _LOCK}:
            raise StageError(f"`{name[:80]}` is no plain file name", hint=_HOSTILE)
        return self.folder(sha256) / name

    def find(self, sha256: str, name: str) -> Path | None:
        """The file, if it is here and undamaged; its time of use becomes now."""
        path = self.path(sha256, name)
        stamp = path.with_name(_STAMP)
        try:
            if stamp.read_text(encoding="ascii") == _signature(path):
                os.utime(stamp)
                return path
        except FileNotFoundError:
            if not path.exists():
                return None
        if sha256_of(path) == sha256:
            self.stamp(path)
            return path
        path.unlink(missing_ok=True)
        return None

    def stamp(self, path: Path) -> None:
        """Note that the file's hash is right as it stands now."""
        write_atomically(path.with_name(_STAMP), _signature(path))

    @contextmanager
    def slot(self, sha256: str, name: str) -> Iterator[Slot]:
        """The place for a file that is to be stored; no other process is in it meanwhile."""
        slot = Slot(self, sha256, name)
        with _lock(slot.folder):
            yield slot

    def add(self, source: Path, *, name: str | None = None, sha256: str | None = None) -> Path:
        """Copy a file in, verified on the way; without `sha256` it is whatever the file has now.

        Raises StageError when it has another hash than `sha256`, or cannot be read.
        """
        name = name or source.name
        try:
            expected = sha256 or sha256_of(source)
            if found := self.find(expected, name):
                return found
            with self.slot(expected, name) as slot:
                return slot.stored() or slot.commit(_copy(source, slot.part))
        except OSError as error:
            raise StageError(
                f"`{source}` could not be put into the wheelhouse `{self.root}`: {error.strerror}"
            ) from error

    def staged(self, path: Path, kind: FileKind, *, name: str | None = None) -> StagedFile:
        """A stored file as a record."""
        return StagedFile(
            name=name or path.name, path=str(path), sha256=path.parent.name, size=path.stat().st_size, kind=kind
        )

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """What was remembered under a key; nothing when it is absent or was damaged."""
        try:
            value = json.loads((self.root / kind / f"{key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> Path:
        """Write a value down for later runs; returns its path."""
        path = self.root / kind / f"{key}.json"
        write_atomically(path, json.dumps(value))
        return path

    def require_space(self, wanted: int, what: str) -> None:
        """Raises StageError when the disk of the wheelhouse cannot take so many bytes more."""
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if wanted > free:
            raise StageError(
                f"{what} needs {size(wanted)} in `{self.root}`, and {size(free)} are free there",
                hint="free some space, or set FIRSTLIGHT_CACHE to a folder on a larger disk",
            )

    def prune(self) -> int:
        """Remove files least recently used first until the limit holds, never one that an environment of a host needs.

        Returns the number of bytes removed.
        """
        needed = self.references.needed()
        entries: list[tuple[float, int, Path]] = []
        for folder in (self.root / "files").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                sizes = [entry.stat().st_size for entry in folder.iterdir()]
                stamp = folder / _STAMP
                entries.append(((stamp if stamp.exists() else folder).stat().st_mtime, sum(sizes), folder))
        excess = sum(taken for _, taken, _ in entries) - self.limit_bytes
        removed = 0
        for _, taken, folder in sorted(entries):
            if removed >= excess:
                break
            if folder.name not in needed and _remove(folder):
                removed += taken
        return removed


def _lock(folder: Path) -> IO[str]:
    """The open lock of a file's folder, ours until it is closed; the kernel lets go of it when the process ends, however it ends.

    Raises OSError where the folder cannot be written to.
    """
    for _ in range(_TRIES):
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            lock = (folder / _LOCK).open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_current(lock, folder):
                return lock
            lock.close()
    raise FileNotFoundError(errno.ENOENT, "it does not stay", str(folder))


def _is_current(lock: IO[str], folder: Path) -> bool:
    """Whether a lock is still the folder's: while it was waited for, the folder may have been removed and made anew."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat())
    except FileNotFoundError:
        return False


def _remove(folder: Path) -> bool:
    """Remove a file's folder, unless another process is storing it right now."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_current(lock, folder):
            shutil.rmtree(folder)
            return True
    return False


def _signature(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _copy(source: Path, part: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reading, part.open("wb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            writing.write(block)
    return digest.hexdigest()

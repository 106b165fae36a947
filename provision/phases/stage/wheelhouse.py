"""The wheelhouse: the controller's content-addressed file cache. A file is verified when it is stored.

    ROOT/files/AB/ABCD.../NAME      the file
    ROOT/files/AB/ABCD.../verified  its size and modification time when the hash was last verified; touched at each use
    ROOT/files/AB/ABCD.../NAME.part a partial download
    ROOT/locks/ ROOT/tools/ ...     results that stage caches between runs, a small JSON file a key
    ROOT/references/HOST.json       the files that the environments of a host need

A file whose size or modification time changed is hashed again at its next use. A damaged file is removed and counts as absent. Any
number of processes may use one wheelhouse.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from provision.core.errors import StageError
from provision.core.files import write_atomically
from provision.core.formatting import GIB, format_bytes
from provision.core.models.staged import FileKind, StagedFile
from provision.core.scratch import scratch_folder

BLOCK = 1 << 20
_STAMP = "verified"
_LOCK = ".lock"
_REFERENCES = "references"
_DEFAULT_LIMIT_GIB = 200.0
UNUSED_DAYS = 180
"""A host that no run has used for so long keeps no file here: it may be gone, and one that is not gets its files again."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOSTILE = "the server of this list is broken or hostile; use another index or hub"


def default_limit() -> int:
    """Return the size limit of the wheelhouse in bytes: FIRSTLIGHT_CACHE_GIB, else 200 GiB. Raises StageError."""
    text = os.environ.get("FIRSTLIGHT_CACHE_GIB", "")
    try:
        limit = (float(text) if text else _DEFAULT_LIMIT_GIB) * GIB
    except ValueError:
        limit = 0.0
    if not 0 < limit < math.inf:
        raise StageError(
            f"FIRSTLIGHT_CACHE_GIB is `{text}`", hint="set it to a size in GiB, such as 100, or leave it unset"
        )
    return int(limit)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat_name(path: str) -> str:
    """Return the name in the wheelhouse for a path in a model: names there have no folders."""
    return path.replace("/", "--")


def is_safe_path(path: str) -> bool:
    """Check that a path from a server stays below its folder: relative, without `..`, printable."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not any(part in {"", ".", ".."} for part in parts)


class Slot:
    """The place of one file, locked."""

    def __init__(self, store: Store, sha256: str, name: str) -> None:
        self._store, self.sha256, self.name = store, sha256, name
        self._path = store.path(sha256, name)
        self.folder = self._path.parent
        self.part = self._path.with_name(f"{name}.part")

    def stored(self) -> Path | None:
        """Return the file, when another run has stored it."""
        return self._store.find(self.sha256, self.name)

    def commit(self, digest: str) -> Path:
        """Make the partial file the final one: synced to disk, renamed, marked as verified.

        Raises StageError where `digest` is not the expected hash; the partial file is then removed.
        """
        if digest != self.sha256:
            self.part.unlink(missing_ok=True)
            raise StageError(
                f"`{self.name}` has the wrong hash: sha256 is `{digest}`, locked is `{self.sha256}`",
                hint="the index sends another file than announced; try again, or report it to the owner of the index",
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
        self.references = References(self)

    def folder(self, sha256: str) -> Path:
        """Return the folder of a file.

        Raises:
            StageError: The hash is invalid. Hashes come from indexes and hubs, and become paths.
        """
        if not _SHA256.fullmatch(sha256):
            raise StageError(f"`{sha256[:80]}` is not a sha256", hint=_HOSTILE)
        return Path(self.root, "files", sha256[:2], sha256)

    def path(self, sha256: str, name: str) -> Path:
        """Return the path of a file, present or not.

        Raises StageError where the name is not a file name in that folder.
        """
        if not is_safe_path(name) or "/" in name or name in {_STAMP, _LOCK}:
            raise StageError(f"`{name[:80]}` is not a safe file name", hint=_HOSTILE)
        return self.folder(sha256) / name

    def find(self, sha256: str, name: str) -> Path | None:
        """Return a file that is present and undamaged, and update its time of use."""
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
        """Record that the hash of a file is verified."""
        write_atomically(path.with_name(_STAMP), _signature(path))

    def distrust(self, path: Path) -> None:
        """Have a file hashed again at its next use, whatever its time is: a disk can lose bits of a file that nobody wrote.

        A path outside the wheelhouse is left as it is.
        """
        if path.is_relative_to(self.root / "files"):
            path.with_name(_STAMP).unlink(missing_ok=True)

    @contextmanager
    def slot(self, sha256: str, name: str) -> Iterator[Slot]:
        """Lock the place of a file that is to be stored. Other processes wait."""
        slot = Slot(self, sha256, name)
        slot.folder.mkdir(parents=True, exist_ok=True)
        # The kernel releases the lock when the process ends.
        with (slot.folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield slot

    def add(self, source: Path, *, name: str | None = None, sha256: str | None = None) -> Path:
        """Copy a file into the wheelhouse and verify it; without an expected hash its content is accepted as it is.

        Raises StageError where the file has another hash, or cannot be read.
        """
        name = name or source.name
        try:
            expected = sha256 or sha256_of(source)
            if found := self.find(expected, name):
                return found
            with self.slot(expected, name) as slot:
                if found := slot.stored():
                    return found
                shutil.copyfile(source, slot.part)
                return slot.commit(sha256_of(slot.part))
        except OSError as error:
            raise StageError(
                f"`{source}` cannot be copied into the wheelhouse `{self.root}`: {error.strerror}"
            ) from error

    def add_content(self, content: bytes, name: str, sha256: str) -> Path:
        """Put a file into the wheelhouse whose content is in memory. Raises StageError where its hash is another one."""
        with scratch_folder() as folder:
            (folder / name).write_bytes(content)
            return self.add(folder / name, sha256=sha256)

    def staged(self, path: Path, kind: FileKind) -> StagedFile:
        """Return a stored file as a record."""
        return StagedFile(name=path.name, path=str(path), sha256=path.parent.name, size=path.stat().st_size, kind=kind)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return the cached value of a key; None when it is absent or damaged."""
        try:
            value = json.loads((self.root / kind / f"{key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> Path:
        """Cache a value for later runs and return its path."""
        path = self.root / kind / f"{key}.json"
        write_atomically(path, json.dumps(value))
        return path

    def require_space(self, wanted: int, what: str) -> None:
        """Check the free disk space for a number of further bytes. Raises StageError where the disk is too full."""
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if wanted > free:
            raise StageError(
                f"{what} needs {format_bytes(wanted)} in `{self.root}`, and {format_bytes(free)} are free there",
                hint="free some space, or set FIRSTLIGHT_CACHE to a folder on a larger disk",
            )

    def prune(self) -> int:
        """Remove the oldest files until the limit holds, except those that a host needs; return the removed bytes."""
        needed = self.references.needed()
        entries: list[tuple[float, int, Path]] = []
        for folder in (self.root / "files").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                if taken := sum(entry.stat().st_size for entry in folder.iterdir()):
                    entries.append((_last_use(folder), taken, folder))
        excess = sum(taken for _, taken, _ in entries) - self.limit_bytes
        removed = 0
        for used, taken, folder in sorted(entries):
            if removed >= excess:
                break
            if folder.name not in needed and _remove(folder, used):
                removed += taken
        return removed


def _last_use(folder: Path) -> float:
    stamp = folder / _STAMP
    return (stamp if stamp.exists() else folder).stat().st_mtime


def _remove(folder: Path, used: float) -> bool:
    """Remove the files in a folder, unless another process stores there or has used them since; their lock stays."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _last_use(folder) == used:
            for path in folder.iterdir():
                if path.name != _LOCK:
                    path.unlink()
            return True
    return False


def _signature(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


class References:
    """The files that the environments of hosts need."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def environments(self, host: str) -> dict[str, list[str]]:
        """Return the recorded environments of a host; empty when the record is absent or damaged."""
        return self._store.get(_REFERENCES, quote(host, safe="")) or {}

    def add(self, host: str, environment: str, sha256s: Iterable[str]) -> None:
        """Record that an environment of the host needs these files now."""
        noted = self.environments(host)
        self._store.put(_REFERENCES, quote(host, safe=""), {**noted, environment: sorted(set(sha256s))})

    def keep_only(self, host: str, environments: Collection[str]) -> None:
        """Drop all other environments of the host."""
        noted = self.environments(host)
        kept = {environment: files for environment, files in noted.items() if environment in environments}
        if kept != noted:
            self._store.put(_REFERENCES, quote(host, safe=""), kept)

    def forget(self, host: str) -> None:
        """Drop all references of a host that was uninstalled."""
        (self._store.root / _REFERENCES / f"{quote(host, safe='')}.json").unlink(missing_ok=True)

    def needed(self) -> set[str]:
        """Return the hashes of all files that any environment of any host needs; no host that no run has used for `UNUSED_DAYS` counts."""
        since = time.time() - UNUSED_DAYS * 24 * 3600
        records = [path for path in (self._store.root / _REFERENCES).glob("*.json") if path.stat().st_mtime > since]
        hosts = [unquote(path.stem) for path in records]
        return {sha256 for host in hosts for files in self.environments(host).values() for sha256 in files}

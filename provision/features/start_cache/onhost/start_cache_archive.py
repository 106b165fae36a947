"""Look at, pack and unpack the folder of a start cache: what an engine compiled when it started.

    start_cache_archive.py look   --folder PREFIX/cache/start-KEY [--since NS]
    start_cache_archive.py pack   --folder PREFIX/cache/start-KEY --archive FILE
    start_cache_archive.py unpack --folder PREFIX/cache/start-KEY --archive FILE

An archive is a tar of regular files; its last entry lists their sizes and SHA-256, and the key. `unpack` refuses links, devices,
names that leave the folder, files that are not listed or differ, and the cache of another key. It fills a folder of another name
and renames it at the end, so that no engine sees half of a cache; a folder with compiled code is never replaced.

With `--owner`, root opens the archive and becomes that account before it touches the cache: whoever can write there may have put
links in it. Compiled code is what begins as an ELF file does: libraries, and kernels for cards of NVIDIA and AMD.

Prints one JSON line. Exits with 1 and a message on stderr on failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pwd
import shutil
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import IO, Any

FORMAT = 1
MANIFEST = "manifest.json"
"""Its entry has this name alone; files of the cache are below `cache/` in the archive."""
BELOW = "cache/"
MOST_BYTES = 512 << 20
"""Of a cache that is sent; a larger one is left where it is."""
MANIFEST_BYTES = 64 << 20
ELF = b"\x7fELF"
SHOWN = 3


class ArchiveError(Exception):
    """A cache that cannot be packed or unpacked."""


def become(owner: str | None) -> None:
    """Give up root's rights for those of an account."""
    if owner is None or os.geteuid() != 0:
        return
    account = pwd.getpwnam(owner)
    os.initgroups(owner, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def files_in(folder: Path) -> list[str]:
    """Return the relative names of regular files; links are neither listed nor followed."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                found.append(str(path.relative_to(folder)))
    return sorted(found)


def look(folder: Path, since: int) -> dict[str, Any]:
    """Count the files of compiled code, and those that were written after a moment."""
    code, new = 0, []
    for name in files_in(folder):
        with open_below(folder, name) as file:
            if file.read(len(ELF)) == ELF:
                code += 1
                # The time of change, which no program can set back.
                new += [name] if os.fstat(file.fileno()).st_ctime_ns > since else []
    return {"code": code, "new": len(new), "names": new[:SHOWN], "now": time.time_ns()}


def open_below(folder: Path, name: str) -> IO[bytes]:
    return os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def pack(folder: Path, archive: IO[bytes]) -> dict[str, Any]:
    """Write the archive of a cache. Raises ArchiveError where it has no compiled code, is too large to be sent, or an engine still writes in it."""
    listed: dict[str, list[Any]] = {}
    total = 0
    if not look(folder, 0)["code"]:
        raise ArchiveError(f"{folder} has no compiled code")
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in files_in(folder):
            with open_below(folder, name) as file:
                before = os.fstat(file.fileno())
                content = file.read(MOST_BYTES - total + 1)
                after = os.fstat(file.fileno())
            total += len(content)
            if total > MOST_BYTES:
                raise ArchiveError(f"{folder} has more than {MOST_BYTES >> 20} MiB, which is too much to send")
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, len(content)):
                raise ArchiveError(f"{name} was written while it was read")
            listed[name] = [len(content), hashlib.sha256(content).hexdigest()]
            add(tar, BELOW + name, content)
        add(tar, MANIFEST, json.dumps({"format": FORMAT, "key": folder.name, "files": listed}).encode())
    return {"files": len(listed), "bytes": total}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, BytesIO(content))


def unpack(folder: Path, archive: IO[bytes]) -> dict[str, Any]:
    """Make a cache from an archive. Raises ArchiveError where `pack` did not write it for this key, or compiled code is there already."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    try:
        arrived, manifest = extract(archive, new)
        compare(arrived, manifest, folder.name)
        if look(folder, 0)["code"]:
            raise ArchiveError(f"{folder} has compiled code already")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return {"files": len(arrived), "now": time.time_ns()}


def extract(archive: IO[bytes], folder: Path) -> tuple[dict[str, list[Any]], Any]:
    """Write the files of an archive below an empty folder; return their sizes and hashes, and the manifest."""
    arrived: dict[str, list[Any]] = {}
    total = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for entry in tar:
                if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
                    raise ArchiveError(f"{entry.name!r} is not a regular file")
                content = tar.extractfile(entry)
                assert content is not None
                if entry.name == MANIFEST:
                    if entry.size > MANIFEST_BYTES:
                        raise ArchiveError(f"the manifest has {entry.size} bytes")
                    return arrived, json.loads(content.read())
                total += entry.size
                if total > MOST_BYTES:
                    raise ArchiveError(f"the files have more than {MOST_BYTES >> 20} MiB")
                name = inner_name(entry.name)
                arrived[name] = [entry.size, write(folder / name, content)]
    except (tarfile.TarError, ValueError, OSError, RecursionError) as error:
        raise ArchiveError(f"it cannot be read: {error}") from error
    raise ArchiveError("it has no manifest")


def inner_name(name: str) -> str:
    """Return the name of an entry below the cache's folder. Raises ArchiveError where it would be elsewhere."""
    inner = name[len(BELOW) :]
    if not name.startswith(BELOW) or any(part in ("", ".", "..") for part in inner.split("/")):
        raise ArchiveError(f"{name!r} leaves the folder")
    return inner


def write(path: Path, content: IO[bytes]) -> str:
    """Write a new file, and return the SHA-256 of its content."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        while block := content.read(1 << 20):
            file.write(block)
            digest.update(block)
    return digest.hexdigest()


def compare(arrived: dict[str, list[Any]], manifest: Any, key: str) -> None:
    """Compare what was unpacked with its manifest. Raises ArchiveError where it differs, or is of another key."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArchiveError("its manifest has another form")
    if manifest.get("key") != key:
        raise ArchiveError(f"it is the cache of {manifest.get('key')!r}, wanted is {key!r}")
    listed = manifest.get("files")
    if arrived != listed:
        listed = listed if isinstance(listed, dict) else {}
        names = sorted(name for name in {*arrived, *listed} if arrived.get(name) != listed.get(name))
        raise ArchiveError(f"{len(names)} files differ from its manifest, such as {', '.join(names[:SHOWN])}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says, and return the answer."""
    folder: Path = options.folder
    if options.action == "look":
        become(options.owner)
        return look(folder, options.since)
    if options.action == "unpack":
        with options.archive.open("rb") as archive:
            become(options.owner)
            return unpack(folder, archive)
    descriptor = os.open(options.archive, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w+b") as archive:
        become(options.owner)
        packed = pack(folder, archive)
        size = archive.tell()
        archive.seek(0)
        digest = hashlib.sha256()
        while block := archive.read(1 << 20):
            digest.update(block)
    return {**packed, "size": size, "sha256": digest.hexdigest()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Look at, pack or unpack a start cache.")
    parser.add_argument("action", choices=["look", "pack", "unpack"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--owner", help="account of the service, which root becomes")
    parser.add_argument("--since", type=int, default=0, help="nanoseconds of this host's clock")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        answer = run(options)
    except (ArchiveError, OSError, KeyError) as problem:
        sys.stderr.write(f"start_cache_archive: {problem}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Look at, pack and unpack the folder of a start cache: what an engine compiled when it started.

    start_cache_archive.py look   --folder PREFIX/cache/start-KEY
    start_cache_archive.py pack   --folder PREFIX/cache/start-KEY --archive FILE
    start_cache_archive.py unpack --folder PREFIX/cache/start-KEY --archive FILE

`look` prints the number of files of compiled code: those that begin as an ELF file does, libraries and kernels for cards of NVIDIA
and AMD. An archive is a tar of regular files, whose SHA-256 the sender checks. `unpack` refuses links, devices and names that leave
the folder. It fills a folder of another name and renames it at the end, so that no engine sees half of a cache; a folder with compiled
code is never replaced.

With `--owner`, root opens the archive and becomes that account before it touches the cache: whoever can write there may have put
links in it. Exits with 1 and a message on stderr on failure.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import IO

MOST_BYTES = 512 << 20
"""Of a cache that is sent; a larger one is left where it is."""
ELF = b"\x7fELF"


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


def open_below(folder: Path, name: str) -> IO[bytes]:
    return os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def look(folder: Path) -> int:
    """Return the number of files of compiled code."""
    code = 0
    for name in files_in(folder):
        with open_below(folder, name) as file:
            code += file.read(len(ELF)) == ELF
    return code


def pack(folder: Path, archive: IO[bytes]) -> None:
    """Write the archive of a cache. Raises ArchiveError where it has no compiled code, is too large to be sent, or an engine still writes in it."""
    total = 0
    if not look(folder):
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
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))


def unpack(folder: Path, archive: IO[bytes]) -> None:
    """Make a cache from an archive. Raises ArchiveError where `pack` did not write it, or compiled code is there already."""
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    try:
        extract(archive, new)
        if look(folder):
            raise ArchiveError(f"{folder} has compiled code already")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def extract(archive: IO[bytes], folder: Path) -> None:
    """Write the files of an archive below an empty folder."""
    total = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for entry in tar:
                if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
                    raise ArchiveError(f"{entry.name!r} is not a regular file")
                if any(part in ("", ".", "..") for part in entry.name.split("/")):
                    raise ArchiveError(f"{entry.name!r} leaves the folder")
                total += entry.size
                if total > MOST_BYTES:
                    raise ArchiveError(f"the files have more than {MOST_BYTES >> 20} MiB")
                path, content = folder / entry.name, tar.extractfile(entry)
                assert content is not None
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with path.open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise ArchiveError(f"it cannot be read: {error}") from error


def run(options: argparse.Namespace) -> None:
    """Do what the command line says."""
    folder: Path = options.folder
    if options.action == "look":
        become(options.owner)
        sys.stdout.write(f"{look(folder)}\n")
    elif options.action == "unpack":
        with options.archive.open("rb") as archive:
            become(options.owner)
            unpack(folder, archive)
    else:
        descriptor = os.open(options.archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as archive:
            become(options.owner)
            pack(folder, archive)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Look at, pack or unpack a start cache.")
    parser.add_argument("action", choices=["look", "pack", "unpack"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--owner", help="account of the service, which root becomes")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        run(options)
    except (ArchiveError, OSError, KeyError) as problem:
        sys.stderr.write(f"start_cache_archive: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

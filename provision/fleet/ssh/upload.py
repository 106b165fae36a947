"""Upload into a host's incoming folder: missing files are sent, verified there, then renamed.

`.arrived` lists verified files (hash, size, modification time, name). A file in transfer is `.ID.part`; an interrupted one
is continued by any later run.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from provision.core.errors import DamagedSourceError, NoCopyError, StageError
from provision.core.folders import cache_folder
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.script import script_of
from provision.fleet.ssh.session import Progress, SendReport, Session

LEDGER = ".arrived"
TAR_BELOW = 32 * 1024 * 1024
"""Smaller files are sent in one tar stream, bytes."""
PEER_FOLDER = ".peers"
"""Where the incoming folder has the program that hands files on to other hosts, while a run uses it."""
_PIECE = 256 * 1024
_LISTED = re.compile(r"(A (?P<sha>\S+)|F) (?P<size>[0-9]{1,18}) (?P<changed>[0-9]{1,18}) (\./)?(?P<name>.+)")
_VERIFY_S = 120.0
_VERIFIED_BYTES_S = 1_000_000
"""The slowest host that verifies files; so long, and the time before, it may take."""

_LIST, _FINISH = (Path(__file__).with_name(name) for name in ("list.sh", "finish.sh"))


@dataclass(frozen=True)
class RemoteFiles:
    """Files in a host's incoming folder."""

    arrived: dict[str, tuple[str, int, int]]
    """By name: hash, size and modification time at verification."""
    files: dict[str, tuple[int, int]]
    """By name: size and modification time now."""

    @classmethod
    def parse(cls, text: str) -> RemoteFiles:
        """Parse the output of the listing script."""
        arrived: dict[str, tuple[str, int, int]] = {}
        files: dict[str, tuple[int, int]] = {}
        for line in text.splitlines():
            if (found := _LISTED.fullmatch(line)) and found["sha"]:
                arrived[found["name"]] = (found["sha"], int(found["size"]), int(found["changed"]))
            elif found:
                files[found["name"]] = (int(found["size"]), int(found["changed"]))
        return cls(arrived, files)

    def has(self, file: StagedFile) -> bool:
        """Return whether a file is unchanged since its verification."""
        sha, size, changed = self.arrived.get(file.name, ("", 0, 0))
        return (sha, size) == (file.sha256, file.size) and self.files.get(file.name) == (size, changed)

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the files, of verified ones by their hash, of others by name."""
        return {self.arrived.get(name, (name,))[0]: size for name, (size, _) in self.files.items()}

    def part(self, file: StagedFile) -> int:
        """Return the number of bytes of a file that have arrived."""
        size, _ = self.files.get(part_name(file), (0, 0))
        return size if size <= file.size else 0


def part_name(file: StagedFile) -> str:
    """Return the name of a file in transfer, from content and name, so that nothing else is appended to it."""
    return f".{hashlib.sha256(f'{file.sha256} {file.name}'.encode()).hexdigest()[:20]}.part"


Stream = Callable[[str, Iterator[bytes]], None]
"""Streams bytes into a POSIX sh command on the host."""
Move = Callable[[Sequence[StagedFile], RemoteFiles], None]
"""Gets files to their names in transfer, from what is there of them."""


def send_by_stream(
    session: Session, stream: Stream, files: Sequence[StagedFile], folder: str, progress: Progress
) -> SendReport:
    """Upload in streams: small files together, each large one from where it was interrupted. Raises StageError, TransportError."""
    enter = f"umask 077; cd -- {shlex.quote(folder)} &&"

    def move(files: Sequence[StagedFile], remote: RemoteFiles) -> None:
        together = [file for file in files if file.size < TAR_BELOW and not remote.part(file)]
        if together:
            # -m and -o: without times and owners of this machine
            stream(f"{enter} exec tar -xmof -", tar_stream(together, progress))
        for file in files:
            offset = remote.part(file)
            if file not in together and offset < file.size:
                writes = ">>" if offset else ">"
                stream(f"{enter} exec cat {writes} {part_name(file)}", _pieces(file, offset, progress))

    return _send(session, files, folder, progress, move)


def send_by_links(session: Session, files: Sequence[StagedFile], folder: str, progress: Progress) -> SendReport:
    """Upload to a folder of this machine: links to files of the cache where possible, copies of others, which stay the user's. Raises StageError."""

    def move(files: Sequence[StagedFile], remote: RemoteFiles) -> None:
        for file in files:
            source, target = Path(file.path).resolve(), Path(folder, part_name(file))
            target.unlink(missing_ok=True)
            if source.is_relative_to((cache_folder() / "files").resolve()):
                with suppress(OSError):  # another file system, or no hard links
                    target.hardlink_to(source)
            if not target.exists():
                shutil.copyfile(source, target)
            progress(file.size - remote.part(file))

    return _send(session, files, folder, progress, move)


def _send(session: Session, files: Sequence[StagedFile], folder: str, progress: Progress, move: Move) -> SendReport:
    started = time.monotonic()
    files = checked_names(files)
    remote = list_remote(session, folder)
    missing = [file for file in files if not remote.has(file)]
    resumed = sum(map(remote.part, missing))
    progress(sum(file.size for file in files if remote.has(file)) + resumed)
    damaged = _transfer(session, missing, folder, remote, move)
    again = [file for file in missing if file.name in damaged]
    progress(-sum(file.size for file in again))
    twice = _transfer(session, again, folder, replace(remote, files={}), move)
    for file in again:
        if file.name in twice:
            raise damage_error(f"host {session.host}", file, twice[file.name])
    return SendReport(
        sent=tuple(file.name for file in missing),
        bytes_sent=sum(file.size for file in (*missing, *again)) - resumed,
        seconds=time.monotonic() - started,
    )


def _transfer(
    session: Session, files: Sequence[StagedFile], folder: str, remote: RemoteFiles, move: Move
) -> dict[str, str]:
    """Send and verify files; return damaged ones with their hash on the host."""
    if not files:
        return {}
    require_here(session.host, [file for file in files if remote.part(file) < file.size])
    move(files, remote)
    lines = "".join(f"{part_name(file)} {file.sha256} {file.name}\n" for file in files)
    seconds = _VERIFY_S + sum(file.size for file in files) / _VERIFIED_BYTES_S
    finished = session.run(script_of(_FINISH, folder=folder, ledger=LEDGER), stdin=lines, timeout_s=seconds)
    if finished.rc != 0:
        raise StageError(
            f"what arrived on host {session.host} cannot be put in place: {' '.join(finished.stderr.split())}",
            hint=f"check the folder {folder} there",
        )
    return {name: got for got, _, name in (line.partition(" ") for line in finished.stdout.splitlines())}


def _pieces(file: StagedFile, offset: int, progress: Progress) -> Iterator[bytes]:
    with Path(file.path).open("rb") as content:
        content.seek(offset)
        while piece := content.read(_PIECE):
            yield piece
            progress(len(piece))


def list_remote(session: Session, folder: str) -> RemoteFiles:
    """Make a host's incoming folder where it is absent, and list it. What a run left there for other hosts is removed.

    Raises StageError if the folder cannot be used, and TransportError.
    """
    done = session.run(script_of(_LIST, folder=folder, ledger=LEDGER, peers=PEER_FOLDER))
    if done.rc != 0:
        raise StageError(
            f"the folder {folder} on host {session.host} cannot be used: {done.stderr.strip()}",
            hint="it must belong to the login user; remove it if it is not theirs",
        )
    return RemoteFiles.parse(done.stdout)


def tar_stream(files: Sequence[StagedFile], progress: Progress) -> Iterator[bytes]:
    """Yield a tar archive of files under their transfer names."""
    for file in files:
        entry = tarfile.TarInfo(part_name(file))
        entry.size = file.size
        entry.mode = 0o600
        yield entry.tobuf(tarfile.USTAR_FORMAT)
        left = file.size
        with Path(file.path).open("rb") as content:
            while left and (piece := content.read(min(_PIECE, left))):
                yield piece
                left -= len(piece)
                progress(len(piece))
        if left:
            raise StageError(f"{file.path} is {left} bytes shorter than was recorded", hint="stage again")
        yield b"\0" * (-file.size % tarfile.BLOCKSIZE)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=,~!-]*(/[A-Za-z0-9_][A-Za-z0-9._+@=,~!-]*)*")


def checked_names(files: Sequence[StagedFile]) -> list[StagedFile]:
    """Return the files without duplicates. Raises StageError if a name would leave the folder, or belongs to two files."""
    by_name: dict[str, StagedFile] = {}
    for file in files:
        if not _NAME.fullmatch(file.name):
            raise StageError(
                f"{file.name!r} is no name for a staged file", hint="letters, digits and . _ + @ = , ~ ! - only"
            )
        if by_name.setdefault(file.name, file).sha256 != file.sha256:
            raise StageError(f"two different files are to be sent as {file.name}", hint="stage again")
    return list(by_name.values())


def require_here(host: str, files: Sequence[StagedFile]) -> None:
    """Raise NoCopyError for files that the controller has not, as it left them to the host's own source."""
    if absent := {file.name: file.sha256 for file in files if not file.path}:
        raise NoCopyError(host, absent)


def damage_error(at: str, file: StagedFile, got: str) -> StageError:
    """Return the error for a file that arrived damaged twice."""
    with Path(file.path).open("rb") as content:
        source = hashlib.file_digest(content, "sha256").hexdigest()
    if source != file.sha256:
        return DamagedSourceError(file.path, source, file.sha256)
    return StageError(
        f"{file.name} arrived damaged twice on {at}: its SHA-256 is {got} there, {file.sha256} here",
        hint="check that host's disk, memory and network",
    )

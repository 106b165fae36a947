"""Start caches on a host and on the controller: packed on one host, and unpacked on another with the same key by `start_cache_archive.py` there."""

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provision.core.errors import RemoteCommandError, ServeError
from provision.core.install_paths import InstallPaths
from provision.core.json_text import parse_object
from provision.core.models.base import Record
from provision.core.models.staged import StagedFile
from provision.features.start_cache.onhost.start_cache_archive import MOST_BYTES
from provision.fleet.ssh.session import Session
from provision.phases.serve.start_cache import KEY_LENGTH, folder_of

MOST_ARCHIVES = 16
"""Of one inventory on the controller."""
PROGRAM = Path(__file__).parent / "onhost" / "start_cache_archive.py"
ARCHIVE = "start-cache.tar"
"""Of each key: what a killed run left on a host is removed or replaced by the next one."""
LOOK_S, MOVE_S = 60.0, 300.0


class Look(Record):
    """What is in a cache."""

    code: int
    """Files of compiled code."""
    new: int
    """Those of them that were written after a moment."""
    names: tuple[str, ...]
    """Some of these."""
    now: int
    """Moment of the host's clock, in nanoseconds."""


class Packed(Record):
    """An archive on a host."""

    files: int
    bytes: int
    size: int
    sha256: str


class Unpacked(Record):
    """A cache that was unpacked."""

    files: int
    now: int


AnswerT = TypeVar("AnswerT", bound=Record)


@dataclass(frozen=True)
class HostCache:
    """The start cache of one host.

    Its methods raise TransportError where the connection breaks, RemoteCommandError where the host cannot run the program or refuses,
    and ServeError where it answers in another form.
    """

    session: Session
    paths: InstallPaths
    environment: str
    """Folder below PREFIX/envs whose Python runs the program."""
    key: str

    def look(self, *, since: int = 0) -> Look:
        """Ask for what is in it, and what is newer than a moment of the host's clock, in nanoseconds."""
        return self._ask(Look, "look", "--since", str(since), timeout_s=LOOK_S)

    def fetch(self) -> bytes:
        """Return its archive."""
        # Only root, or the one account that there is, can write in this folder.
        archive = f"{self.paths.prefix}/verify/{ARCHIVE}"
        self._remove(archive, root=self.paths.root)
        try:
            packed = self._ask(Packed, "pack", "--archive", archive)
            # The content, its manifest and the blocks of the tar.
            content = self.session.read(archive, root=self.paths.root, timeout_s=MOVE_S, limit_bytes=2 * MOST_BYTES)
        finally:
            self._remove(archive, root=self.paths.root)
        digest = hashlib.sha256(content).hexdigest()
        if digest != packed.sha256:
            raise ServeError(
                f"the start cache of host {self.session.host} has SHA-256 {digest} here, {packed.sha256} there",
                hint="check that host's disk and network; the other hosts compile for themselves",
            )
        return content

    def send(self, archive: StagedFile) -> tuple[int, int]:
        """Give the host the cache of its key. Return the bytes sent, and when it was there by the host's clock, in nanoseconds. Raises StageError."""
        arrived = f"{self.paths.incoming}/{archive.name}"
        try:
            report = self.session.send([archive], self.paths.incoming)
            answer = self._ask(Unpacked, "unpack", "--archive", arrived)
        finally:
            self._remove(arrived, root=False)
        return report.bytes_sent, answer.now

    def drop(self) -> None:
        """Remove the cache from the host."""
        self._remove(folder_of(self.paths.prefix, self.key), root=self.paths.root)

    def _remove(self, path: str, *, root: bool) -> None:
        self.session.run(f"rm -rf -- {shlex.quote(path)}", root=root)

    def _ask(self, answer: type[AnswerT], action: str, *words: str, timeout_s: float = MOVE_S) -> AnswerT:
        prefix = self.paths.prefix
        owner = ("--owner", self.paths.owner) if self.paths.root else ()
        argv = [f"{prefix}/envs/{self.environment}/bin/python", "-I", "-S", f"{prefix}/bin/{PROGRAM.name}", action]
        argv += ["--folder", folder_of(prefix, self.key), *owner, *words]
        done = self.session.run(shlex.join(argv), timeout_s=timeout_s, root=self.paths.root)
        if done.rc != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise RemoteCommandError(
                f"{PROGRAM.name} {action} ended with {done.rc} on host {self.session.host}: {last}",
                hint="the service starts without it, and compiles for itself",
            )
        try:
            return answer.model_validate(parse_object(done.stdout))
        except ValueError as error:
            answered = f"on host {self.session.host} answered {done.stdout[:200]!r}"
            raise ServeError(f"{PROGRAM.name} {action} {answered}") from error


class Archives:
    """Archives of start caches on the controller: what hosts of one inventory compiled never goes to hosts of another."""

    def __init__(self, cache: Path, inventory: str) -> None:
        place = str(Path(inventory).resolve())  # the same words mean another inventory in another folder
        self._folder = cache / "start-caches" / hashlib.sha256(place.encode()).hexdigest()[:KEY_LENGTH]

    def find(self, key: str) -> StagedFile | None:
        """Return the archive of a key; None where there is none. Its SHA-256 is in the name of its file."""
        found = next(iter(sorted(self._folder.glob(f"{key}-*.tar"))), None)
        if found is None:
            return None
        try:
            size = found.stat().st_size
        except FileNotFoundError:  # another run removed it
            return None
        return StagedFile(name=ARCHIVE, path=str(found), sha256=found.stem.partition("-")[2], size=size, kind="cache")

    def remove(self, key: str) -> None:
        """Remove the archive of a key."""
        for found in self._folder.glob(f"{key}-*.tar"):
            found.unlink(missing_ok=True)

    def put(self, key: str, content: bytes) -> None:
        """Keep the archive of a key, and remove the oldest ones beyond the number that is kept."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{key}-{hashlib.sha256(content).hexdigest()}.tar"
        new = path.with_suffix(f".{os.getpid()}")
        new.write_bytes(content)
        new.replace(path)
        by_age = sorted(self._folder.glob("*.tar"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
        for old in by_age[MOST_ARCHIVES:]:
            old.unlink(missing_ok=True)

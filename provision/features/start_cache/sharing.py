"""Start caches from host to host: what the first of equal hosts compiles at its start, its equals have before theirs.

Nothing of this fails a host: one whose cache cannot be fetched, sent or read compiles for itself, and the summary says why.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from provision.core.errors import DamagedSourceError, FirstlightError, RemoteCommandError, ServeError
from provision.core.files import write_atomically
from provision.core.formatting import format_bytes
from provision.core.install_paths import InstallPaths
from provision.core.models.inventory import Host
from provision.core.models.staged import StagedFile
from provision.features.start_cache.onhost.start_cache_archive import MOST_BYTES
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.fleet.ssh.session import Session
from provision.phases.serve.start_cache import KEY_LENGTH, folder_of
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts
from provision.run.sending import SentBytes

MOST_ARCHIVES = 16
"""Of one inventory on the controller."""
PROGRAM = Path(__file__).parent / "onhost" / "start_cache_archive.py"
ARCHIVE = "start-cache.tar"
"""Of each key: what a killed run left on a host is removed or replaced by the next one."""
LOOK_S, MOVE_S = 60.0, 300.0
SPARE_S = 30.0
"""Seconds that a host gets beyond the limits of its commands, before its connection is closed."""
FETCHED_AT_ONCE = 2
"""Caches are in memory for as long as they come."""

T = TypeVar("T")


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

    def has_code(self) -> bool:
        """Ask whether compiled code is in it."""
        said = self._run("look", timeout_s=LOOK_S).strip()
        if not said.isdigit():
            raise ServeError(f"{PROGRAM.name} look on host {self.session.host} answered {said[:200]!r}")
        return int(said) > 0

    def fetch(self) -> bytes:
        """Return its archive."""
        # Only root, or the one account that there is, can write in this folder.
        archive = f"{self.paths.prefix}/verify/{ARCHIVE}"
        self._remove(archive, root=self.paths.root)
        try:
            self._run("pack", "--archive", archive)
            # The content and the blocks of the tar.
            return self.session.read(archive, root=self.paths.root, timeout_s=MOVE_S, limit_bytes=2 * MOST_BYTES)
        finally:
            self._remove(archive, root=self.paths.root)

    def send(self, archive: StagedFile) -> int:
        """Give the host the cache of its key, and return the bytes sent. Raises StageError."""
        arrived = f"{self.paths.incoming}/{archive.name}"
        try:
            report = self.session.send([archive], self.paths.incoming)
            self._run("unpack", "--archive", arrived)
        finally:
            self._remove(arrived, root=False)
        return report.bytes_sent

    def drop(self) -> None:
        """Remove the cache from the host."""
        self._remove(folder_of(self.paths.prefix, self.key), root=self.paths.root)

    def _remove(self, path: str, *, root: bool) -> None:
        self.session.run(f"rm -rf -- {shlex.quote(path)}", root=root)

    def _run(self, action: str, *words: str, timeout_s: float = MOVE_S) -> str:
        """Run the program, and return what it printed."""
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
        return done.stdout


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
        write_atomically(path, content, durable=False)
        by_age = sorted(self._folder.glob("*.tar"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
        for old in by_age[MOST_ARCHIVES:]:
            old.unlink(missing_ok=True)


class StartCaches:
    """The start caches of the hosts that a run starts; those of `still` will not start."""

    def __init__(
        self, context: RunContext, verified: VerifiedHosts, hosts: Sequence[Host], *, still: Collection[str] = ()
    ) -> None:
        self._context, self._verified = context, verified
        self._archives = Archives(context.cache, context.inventory.source)
        self._keys = {
            host.name: key
            for host in hosts
            if host.name not in still and (key := verified.desired[host.name].start_cache) is not None
        }
        self._empty: set[str] = set()
        """Hosts without a cache."""
        self._sent: set[str] = set()
        """Hosts that got one in this run."""
        self._made: set[str] = set()
        """Keys of which a host starts, or has started, to make the cache."""
        self._notes: dict[str, str] = {}
        counted = Counter(self._keys.values())
        asked = [
            host
            for host in hosts
            if (key := self._keys.get(host.name)) and (counted[key] > 1 or self._archives.find(key))
        ]
        found = self._ask(asked, lambda host: self._cache(host).has_code(), deadline_s=LOOK_S + SPARE_S)
        self._empty = {name for name, has_code in found.items() if not has_code}

    def turns(self, wave: Sequence[Host]) -> list[list[Host]]:
        """Return the hosts of a wave in the order in which they start: of those with an equal key and no cache, one starts first.

        Hosts of a span stay together.
        """
        first: list[Host] = []
        later: list[Host] = []
        coming: set[str] = set()
        for head in dict.fromkeys(host.head for host in wave):
            members = [host for host in wave if host.head == head]
            missing = {
                key
                for host in members
                if host.name in self._empty
                and (key := self._keys[host.name]) not in self._made
                and not self._archives.find(key)
            }
            (later if missing and missing <= coming else first).extend(members)
            coming |= missing
        self._made |= coming
        return [turn for turn in (first, later) if turn] or [[]]

    def before(self, hosts: Sequence[Host]) -> list[Host]:
        """Send hosts that have no cache the one of their key, before they start."""
        empty = [host for host in hosts if host.name in self._empty]
        archives = {host.name: one for host in empty if (one := self._archives.find(self._keys[host.name]))}
        wanted = [host for host in empty if host.name in archives]

        def call(host: Host) -> int:
            archive = archives[host.name]
            self._context.progress.note(host.name, f"gets a start cache of {format_bytes(archive.size)}")
            try:
                return self._cache(host).send(archive)
            except DamagedSourceError:
                Path(archive.path).unlink(missing_ok=True)
                raise

        for name, size in self._ask(wanted, call, deadline_s=2 * MOVE_S).items():
            self._empty.discard(name)
            self._sent.add(name)
            self._context.state(SentBytes).count(size)
            self._context.run.change("start-cache", host=name, key=self._keys[name], changed=True)
            self._tell(name, "sent", note=f"start cache of another host sent ({format_bytes(size)})")
        return [*hosts]

    def after(self, hosts: Sequence[Host], *, serving: Collection[str], proven: Collection[str]) -> None:
        """Keep one cache of each key of hosts whose services were proven, for other hosts.

        A cache that was sent to a host whose service was not proven then goes to no other one.
        """
        del serving
        # It may be the reason why the host does not serve.
        doubted = [host for host in hosts if host.name in self._sent and host.name not in proven]
        for host in doubted:
            self._archives.remove(self._keys[host.name])
        for name in self._ask(doubted, lambda host: self._cache(host).drop(), deadline_s=LOOK_S + SPARE_S):
            self._tell(name, "removed", note="start cache of another host removed again: the service was not verified")
        started = [host for host in hosts if host.name in self._keys and host.name in proven]
        makers = {self._keys[host.name]: host for host in reversed(started)}

        def call(host: Host) -> int:
            content = self._cache(host).fetch()
            self._archives.put(self._keys[host.name], content)
            return len(content)

        # Only other hosts may need a cache.
        has_others = self._context.options.limited or len(self._context.inventory.hosts) > 1
        new = [host for key, host in makers.items() if has_others and self._archives.find(key) is None]
        for name, size in self._ask(new, call, deadline_s=3 * MOVE_S, limit=FETCHED_AT_ONCE).items():
            self._tell(name, "kept", note=f"start cache kept for other hosts ({format_bytes(size)})")
        for host in (*doubted, *started):
            if (note := self._notes.pop(host.name, None)) is not None:
                self._context.add_note(host.name, note)

    def _cache(self, host: Host) -> HostCache:
        desired = self._verified.desired[host.name]
        return HostCache(self._context.session(host), desired.paths, desired.environment, self._keys[host.name])

    def _ask(
        self, hosts: Sequence[Host], call: Callable[[Host], T], *, deadline_s: float, limit: int = DEFAULT_LIMIT
    ) -> dict[str, T]:
        """Call a function for hosts, many at a time; return the values of those that answered."""
        done = self._context.ask_hosts(hosts, call, deadline_s=deadline_s, retries=0, limit=limit)
        for name, error in done.errors.items():
            if not isinstance(error, (FirstlightError, OSError)):
                raise error
            self._empty.discard(name)
            self._tell(name, "refused", note=f"start cache not shared: {error}")
        return done.values

    def _tell(self, name: str, state: str, *, note: str) -> None:
        self._context.run.event("start-cache", host=name, phase="serve", state=state, key=self._keys[name], text=note)
        self._notes[name] = f"{self._notes[name]}; {note}" if name in self._notes else note

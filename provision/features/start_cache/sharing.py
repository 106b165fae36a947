"""Start caches from host to host: what the first of equal hosts compiles at its start, its equals have before theirs.

Nothing of this fails a host: one whose cache cannot be fetched, sent or read compiles for itself, and the summary says why.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from provision.core.errors import DamagedSourceError, FirstlightError
from provision.core.formatting import format_bytes
from provision.core.models.inventory import Host
from provision.features.start_cache.host_cache import LOOK_S, MOVE_S, Archives, HostCache
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts
from provision.run.sending import SentBytes

T = TypeVar("T")

SPARE_S = 30.0
"""Seconds that a host gets beyond the limits of its commands, before its connection is closed."""
FETCHED_AT_ONCE = 2
"""Caches are in memory for as long as they come."""


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
        found = self._ask(asked, lambda host: self._cache(host).look(), deadline_s=LOOK_S + SPARE_S)
        self._since = {name: answer.now for name, answer in found.items() if answer.code}
        """Moments of the clocks of hosts that have a cache: what they compile is written later."""
        self._empty = {name for name, answer in found.items() if not answer.code}

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

        def call(host: Host) -> tuple[int, int]:
            archive = archives[host.name]
            self._context.progress.note(host.name, f"gets a start cache of {format_bytes(archive.size)}")
            try:
                return self._cache(host).send(archive)
            except DamagedSourceError:
                Path(archive.path).unlink(missing_ok=True)
                raise

        for name, (size, now) in self._ask(wanted, call, deadline_s=2 * MOVE_S).items():
            self._empty.discard(name)
            self._sent.add(name)
            self._since[name] = now
            self._context.state(SentBytes).count(size)
            self._context.run.change("start-cache", host=name, key=self._keys[name], changed=True)
            self._tell(name, "sent", note=f"start cache of another host sent ({format_bytes(size)})")
        return [*hosts]

    def after(self, hosts: Sequence[Host], *, serving: Collection[str], proven: Collection[str]) -> None:
        """Say of hosts whose services were proven whether they used their caches, and keep one cache of each key for other hosts.

        A cache that was sent to a host whose service was not proven then goes to no other one.
        """
        del serving
        self._drop([host for host in hosts if host.name in self._sent and host.name not in proven])
        started = [host for host in hosts if host.name in self._keys and host.name in proven]
        before = [host for host in started if host.name in self._since]
        looks = self._ask(
            before, lambda host: self._cache(host).look(since=self._since[host.name]), deadline_s=LOOK_S + SPARE_S
        )
        for name, answer in looks.items():
            if answer.new:
                more = f"{answer.new} files, such as {', '.join(answer.names)}"
                self._tell(name, "compiled more", note=f"more was compiled than the start cache has: {more}")
            else:
                self._tell(name, "used", note="start cache used: nothing was compiled")
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
        for host in started:
            self._add_note(host.name)

    def _drop(self, hosts: Sequence[Host]) -> None:
        """Remove caches that may be the reason why their hosts do not serve."""
        for host in hosts:
            self._archives.remove(self._keys[host.name])
        for name in self._ask(hosts, lambda host: self._cache(host).drop(), deadline_s=LOOK_S + SPARE_S):
            self._tell(name, "removed", note="start cache of another host removed again: the service was not verified")
        for host in hosts:
            self._add_note(host.name)

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

    def _add_note(self, name: str) -> None:
        if (note := self._notes.pop(name, None)) is not None:
            self._context.add_note(name, note)

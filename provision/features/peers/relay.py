"""The order of transfers in a fleet: which host gets its files from the controller, which from a host that has them.

The first hosts get their files from the controller. Each of them, and each host after it, hands on what it has. Two hosts are related
where one has at least half of the bytes that the other needs, and both are in one network as far as that is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

FIRST = 2
"""Related hosts that the controller sends to: with one alone, a slow or broken one would delay all others."""
AT_ONCE = 2
"""Hosts that one host serves at a time. More would share the same line, and none of them could hand on before all have ended."""
ENOUGH_REFUSALS = 2
"""A host that failed to serve so often is not asked again in this run."""
HOPELESS = 3
"""After as many failures without any success, hosts are taken not to reach each other."""
SHARED = 0.5
"""Share of a host's bytes that another must have to be worth waiting for."""


class _State(Enum):
    WAITING = auto()
    RECEIVING = auto()
    SERVING = auto()
    OUT = auto()
    """It has its files or has failed, and hands nothing on."""


@dataclass(frozen=True)
class Member:
    """A host that takes part."""

    name: str
    network: str
    """Hosts with different texts are not asked to reach each other."""
    files: Mapping[str, int]
    """Bytes of each file that it needs, by hash."""


@dataclass(frozen=True)
class Turn:
    """A transfer that may begin now; without a source the controller sends everything."""

    source: str | None = None


@dataclass
class _Standing:
    state: _State = _State.WAITING
    serves: int = 0
    refusals: int = 0
    source: str | None = None


class Relay:
    """The order of all transfers, which are started in that of the members. It neither waits nor sends: callers ask for a turn again after each change."""

    def __init__(self, members: Sequence[Member]) -> None:
        kinds: dict[object, int] = {}
        self.members, self.successes, self.failures = members, 0, 0
        self._places = {member.name: place for place, member in enumerate(members)}
        self._standings = {member.name: _Standing() for member in members}
        self._kinds = {
            member.name: kinds.setdefault((member.network, frozenset(member.files.items())), len(kinds))
            for member in members
        }
        """Members that need the same files have the same number."""
        self._related: dict[tuple[int, int], int] = {}
        """Bytes that one kind has for another, where they are enough; 0 where not."""

    def begin(self, name: str) -> Turn | None:
        """Begin the transfer to a host; None where it has to wait for another host."""
        member, standing = self.members[self._places[name]], self._standings[name]
        standing.state = _State.WAITING
        source = self._source(member)
        if source is None and self._waits(member):
            return None
        standing.state, standing.source = _State.RECEIVING, source
        if source is not None:
            self._standings[source].serves += 1
        return Turn(source)

    def received(self, name: str, *, refused: bool = False) -> None:
        """End what a host gets from another one, which may have refused; what is missing follows from the controller."""
        standing = self._standings[name]
        source, standing.source = standing.source, None
        if source is None:
            return
        serving = self._standings[source]
        serving.serves -= 1
        if not refused:
            self.successes += 1
            return
        self.failures += 1
        serving.refusals += 1
        if serving.refusals >= ENOUGH_REFUSALS:
            serving.state = _State.OUT

    def distrust(self, name: str) -> None:
        """Ask a host no more, since it handed on wrong bytes."""
        self._standings[name].state = _State.OUT

    def end(self, name: str, *, serves: bool) -> None:
        """End the transfer to a host; `serves` says whether it hands on what it has."""
        self.received(name)
        self._standings[name].state = _State.SERVING if serves else _State.OUT

    def fail(self, name: str) -> None:
        """End the transfer to a host that has failed. It may begin again."""
        standing = self._standings[name]
        if standing.source is not None:
            self._standings[standing.source].serves -= 1
            standing.source = None
        standing.state = _State.OUT

    def is_wanted(self, name: str) -> bool:
        """Return whether a host still waits that could use the files of this one."""
        if self._is_hopeless:
            return False
        own = self.members[self._places[name]]
        return any(
            self._standings[member.name].state is _State.WAITING and self._shared(own, member)
            for member in self.members
            if member.name != name
        )

    @property
    def _is_hopeless(self) -> bool:
        return self.failures >= HOPELESS and not self.successes

    def _source(self, member: Member) -> str | None:
        """Return the host with the most bytes for a member, and of these the one that serves the fewest."""
        if self._is_hopeless:
            return None
        found = [
            (-self._shared(other, member), self._standings[other.name].serves, place, other.name)
            for place, other in enumerate(self.members)
            if self._standings[other.name].state is _State.SERVING
            and self._standings[other.name].serves < AT_ONCE
            and self._shared(other, member)
        ]
        return min(found)[-1] if found else None

    def _waits(self, member: Member) -> bool:
        """Return whether enough related hosts come before a member, that have the files or will have them."""
        if self._is_hopeless:
            return False
        ahead = 0
        for place, other in enumerate(self.members):
            state = self._standings[other.name].state
            comes = state in {_State.RECEIVING, _State.SERVING} or (
                state is _State.WAITING and place < self._places[member.name]
            )
            ahead += comes and other is not member and self._shared(other, member) > 0
        return ahead >= FIRST

    def _shared(self, source: Member, receiver: Member) -> int:
        """Return the bytes that a member has for another; 0 where they are too few, or the two may not reach each other."""
        pair = self._kinds[source.name], self._kinds[receiver.name]
        if pair not in self._related:
            shared = sum(size for sha256, size in receiver.files.items() if sha256 in source.files)
            enough = source.network == receiver.network and shared >= SHARED * sum(receiver.files.values())
            self._related[pair] = shared if enough else 0
        return self._related[pair]

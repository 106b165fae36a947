"""The order of transfers in a fleet: which host gets its files from the controller, which from a host that has them.

The first hosts get their files from the controller. Each of them, and each host after it, hands on what it has. A host serves
another one if it has all files that the other needs, and both are in one network as far as that is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

FIRST = 2
"""Hosts with the same files that the controller sends to: with one alone, a slow or broken one would delay all others."""
AT_ONCE = 2
"""Hosts that one host serves at a time. More would share the same line, and none of them could hand on before all have ended."""
HOPELESS = 3
"""After as many failures without any success, hosts are taken not to reach each other."""


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
    files: frozenset[str]
    """Hashes of the files that it needs."""

    def serves(self, other: "Member") -> bool:
        """Return whether this host will have all that another one needs."""
        has_all = other.files is self.files or other.files <= self.files
        return self is not other and self.network == other.network and bool(other.files) and has_all


@dataclass(frozen=True)
class Turn:
    """A transfer that may begin now; without a source the controller sends everything."""

    source: str | None = None


@dataclass
class _Standing:
    member: Member
    place: int
    state: _State = _State.WAITING
    serves: int = 0
    source: str | None = None


class Relay:
    """The order of all transfers, which are started in that of the members. It neither waits nor sends: callers ask for a turn again after each change."""

    def __init__(self, members: Sequence[Member]) -> None:
        # One set for all members with the same files: comparing two such members is then quick.
        sets: dict[frozenset[str], frozenset[str]] = {}
        alike = (replace(member, files=sets.setdefault(member.files, member.files)) for member in members)
        self.successes, self.failures = 0, 0
        self._standings = {member.name: _Standing(member, place) for place, member in enumerate(alike)}

    def begin(self, name: str) -> Turn | None:
        """Begin the transfer to a host; None where it has to wait for another host."""
        standing = self._standings[name]
        standing.state = _State.WAITING
        source = self._source(standing.member)
        if source is None and self._waits(standing):
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
        self._standings[source].serves -= 1
        if refused:
            self.failures += 1
            self.distrust(source)
        else:
            self.successes += 1

    def distrust(self, name: str) -> None:
        """Ask a host no more, since it refused or handed on wrong bytes."""
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
        own = self._standings[name].member
        waiting = (other.member for other in self._standings.values() if other.state is _State.WAITING)
        return not self._is_hopeless and any(map(own.serves, waiting))

    @property
    def _is_hopeless(self) -> bool:
        return self.failures >= HOPELESS and not self.successes

    def _source(self, member: Member) -> str | None:
        """Return the host that can serve a member and serves the fewest."""
        serving = [
            (other.serves, other.place, name)
            for name, other in self._standings.items()
            if other.state is _State.SERVING and other.serves < AT_ONCE and other.member.serves(member)
        ]
        return min(serving)[-1] if serving and not self._is_hopeless else None

    def _waits(self, own: _Standing) -> bool:
        """Return whether enough hosts come before a member that have its files or will have them."""
        ahead = 0
        for other in self._standings.values():
            is_before = other.state is _State.WAITING and other.place < own.place
            comes = is_before or other.state in {_State.RECEIVING, _State.SERVING}
            ahead += comes and other.member.serves(own.member)
        return ahead >= FIRST and not self._is_hopeless

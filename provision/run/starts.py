"""Starts of services in a run: features divide hosts that may start together, and act before and after each start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from provision.core import features
from provision.core.models.inventory import Host
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts


class StartPart(Protocol):
    """A part in the starts of a run, such as that of one feature."""

    def turns(self, wave: Sequence[Host], /) -> list[list[Host]]:
        """Return hosts that may start together in the order in which they start: at least one list."""

    def before(self, hosts: Sequence[Host], /) -> list[Host]:
        """Prepare hosts that start next; return those of them that may."""

    def after(self, hosts: Sequence[Host], /, *, serving: Collection[str], proven: Collection[str]) -> None:
        """Act on hosts that were started, or found in the desired state.

        `serving` are those of them that serve, be it with the release before, and `proven` all whose services were proven in this run.
        """


class Starts(StartPart):
    """The starts of one run: the parts of all features, one after the other. What is first after a start is last before it."""

    def __init__(
        self, context: RunContext, verified: VerifiedHosts, hosts: Sequence[Host], *, still: Collection[str]
    ) -> None:
        """Ask features for their parts in the starts of `hosts`; `still` are those of them that will not start."""
        self._parts: list[StartPart] = [
            starts(context, verified, hosts, still=still) for starts in features.hooks("starts")
        ]

    def turns(self, wave: Sequence[Host]) -> list[list[Host]]:
        found = [[*wave]]
        for part in self._parts:
            found = [turn for hosts in found for turn in part.turns(hosts)]
        return found

    def before(self, hosts: Sequence[Host]) -> list[Host]:
        ready = [*hosts]
        for part in reversed(self._parts):
            ready = part.before(ready)
        return ready

    def after(self, hosts: Sequence[Host], *, serving: Collection[str], proven: Collection[str]) -> None:
        for part in self._parts:
            part.after(hosts, serving=serving, proven=proven)

"""Starts of services in a run: features divide hosts that may start together, and act before and after each start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from provision.core import features
from provision.core.models.inventory import Host
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts


class StartPart(Protocol):
    """The part of one feature in the starts of a run."""

    def turns(self, wave: Sequence[Host]) -> list[list[Host]]:
        """Return hosts that may start together in the order in which they start: at least one list."""

    def before(self, hosts: Sequence[Host]) -> list[Host]:
        """Prepare hosts that start next; return those of them that may."""

    def after(self, hosts: Sequence[Host], *, serving: Collection[str], proven: Collection[str]) -> None:
        """Act on hosts that were started, or found in the desired state; see `Starts.after`."""


class Starts:
    """The starts of one run, with the parts of all features.

    Args:
        verified: The hosts, with their desired states.
        hosts: Those that are to start.
        still: Those of them that will not.
    """

    def __init__(
        self, context: RunContext, verified: VerifiedHosts, hosts: Sequence[Host], *, still: Collection[str]
    ) -> None:
        self._parts: list[StartPart] = [
            starts(context, verified, hosts, still=still) for starts in features.hooks("starts")
        ]

    def turns(self, hosts: Sequence[Host]) -> list[list[Host]]:
        """Return hosts that start together, in order: at least one list."""
        found = [[*hosts]]
        for part in self._parts:
            found = [turn for wave in found for turn in part.turns(wave)]
        return found

    def before(self, hosts: Sequence[Host]) -> list[Host]:
        """Prepare hosts that start next; return those of them that may. What is first after a start is last before it."""
        ready = [*hosts]
        for part in reversed(self._parts):
            ready = part.before(ready)
        return ready

    def after(self, hosts: Sequence[Host], *, serving: Collection[str], proven: Collection[str]) -> None:
        """Act on hosts that were started, or found in the desired state.

        `serving` are those of them that serve, be it with the release before, and `proven` all whose services were proven in this run.
        """
        for part in self._parts:
            part.after(hosts, serving=serving, proven=proven)

"""Starts of services in a run: features divide hosts that may start together, and act before and after each start."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from provision.core import features
from provision.core.models.inventory import Host
from provision.pipeline.context import RunContext
from provision.pipeline.results import VerifiedHosts


class StartPart(Protocol):
    """The part of one feature in the starts of a run."""

    def turns(self, wave: Sequence[Host]) -> list[list[Host]]:
        """Return hosts that may start together in the order in which they start: at least one list."""

    def before(self, hosts: Sequence[Host]) -> None:
        """Prepare hosts that start next."""

    def after(self, hosts: Sequence[Host], proven: Collection[str]) -> None:
        """Act on hosts that were started, where the services of some were proven."""


class Starts:
    """The starts of one run, with the parts of all features.

    Args:
        context: The run.
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

    def turns(self, waves: Sequence[list[Host]]) -> list[list[Host]]:
        """Return hosts that start together, in order.

        Args:
            waves: Hosts that may start together, in order.
        """
        found = [*waves]
        for part in self._parts:
            found = [turn for wave in found for turn in part.turns(wave)]
        return found

    def before(self, hosts: Sequence[Host]) -> None:
        """Prepare hosts that start next."""
        for part in self._parts:
            part.before(hosts)

    def after(self, hosts: Sequence[Host], proven: Collection[str]) -> None:
        """Act on hosts that were started.

        Args:
            hosts: The hosts.
            proven: Those of them whose services were proven.
        """
        for part in self._parts:
            part.after(hosts, proven)

"""What the phases of a run hand on: each result holds all earlier ones, and is never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Generic, TypeVar

from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord, PlannedChange
from provision.core.models.stack import Plan, Stack
from provision.core.models.staged import Staged
from provision.run.desired_state import Desired

HostsT = TypeVar("HostsT", bound="ProbedHosts")
T = TypeVar("T")


@dataclass(frozen=True)
class ProbedHosts:
    """Hosts whose facts are known. All mappings here are by host name."""

    facts: Mapping[str, HostFacts] = field(default_factory=dict)
    install_paths: Mapping[str, InstallPaths] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedHosts(ProbedHosts):
    """Hosts with the Stack of their class."""

    plan: Plan = field(default_factory=lambda: Plan(classes=()))
    driver_changed: frozenset[str] = frozenset()
    """Hosts whose drivers this run installed."""
    changes: Mapping[str, tuple[PlannedChange, ...]] = field(default_factory=dict)
    """What a run would change, as far as it was compared."""
    notes: tuple[str, ...] = ()
    """What is to be said of packages that hosts cannot get themselves."""

    def stack(self, host: str) -> Stack | None:
        """Return the Stack of a host; None where none fits, and for a host that was not planned."""
        return next((found.stack for found in self.plan.classes if host in found.hosts), None)

    def as_planned(self) -> PlannedHosts:
        """Return the part of a result that phases after the plan begin with."""
        return PlannedHosts(**{part.name: getattr(self, part.name) for part in fields(PlannedHosts)})


@dataclass(frozen=True)
class StagedHosts(PlannedHosts):
    """Hosts whose files are on the controller, with the state that they are to have."""

    staged: Mapping[str, Staged] = field(default_factory=dict)
    desired: Mapping[str, Desired] = field(default_factory=dict)
    up_to_date: frozenset[str] = frozenset()
    """Hosts whose probe showed the desired state: no phase changes them."""
    restart_only: frozenset[str] = frozenset()
    """Hosts whose service alone is started in another way: what was installed and checked holds."""


@dataclass(frozen=True)
class VerifiedHosts(StagedHosts):
    """Hosts whose new environment was checked; the desired state follows the checks."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class AnsweredHosts(ProbedHosts, Generic[T]):
    """Hosts that were asked, and what a command makes of their answers."""

    answer: T = field(kw_only=True)


@dataclass(frozen=True)
class Conclusion:
    """What a command says besides the checks of hosts."""

    document: Mapping[str, Any]
    """What the printed document has in addition."""
    lines: tuple[str, ...]
    is_green: bool


@dataclass(frozen=True)
class CheckedHosts(ProbedHosts):
    """Hosts whose live environment was checked."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    aggregate: tuple[CheckRecord, ...] = ()
    """Checks that compare hosts."""
    around: tuple[CheckRecord, ...] = ()
    """Checks of what stands around hosts, such as gateways."""
    left_out: frozenset[str] = frozenset()
    """Hosts that were not to be checked."""
    conclusion: Conclusion | None = None


def combined(results: Sequence[HostsT]) -> HostsT:
    """Return one result for the hosts of several batches, of the type of the last; newer values replace older ones."""
    last = results[-1]
    values: dict[str, Any] = {}
    for part in fields(last):
        found = [getattr(result, part.name) for result in results]
        if isinstance(found[-1], Mapping):
            values[part.name] = {name: value for mapping in found for name, value in mapping.items()}
        elif isinstance(found[-1], frozenset):
            values[part.name] = frozenset().union(*found)
        else:
            values[part.name] = found[-1]
    return type(last)(**values)

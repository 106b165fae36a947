"""What the phases of a run hand on: each result holds all earlier ones, and is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from provision.core.models.stack import Plan

if TYPE_CHECKING:
    from provision.core.install_paths import InstallPaths
    from provision.core.models.facts import HostFacts
    from provision.core.models.records import CheckRecord, PhaseResult, ServeRecord
    from provision.core.models.stack import Stack
    from provision.core.models.staged import Staged
    from provision.pipeline.desired_state import Desired


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

    def stack(self, host: str) -> Stack | None:
        """Return the Stack of a host; None where none fits."""
        return self.plan.for_host(host).stack


@dataclass(frozen=True)
class StagedHosts(PlannedHosts):
    """Hosts whose files are on the controller, with the state that they are to have."""

    staged: Mapping[str, Staged] = field(default_factory=dict)
    desired: Mapping[str, Desired] = field(default_factory=dict)
    up_to_date: frozenset[str] = frozenset()
    """Hosts whose probe showed the desired state: nothing is done to them."""


@dataclass(frozen=True)
class InstalledHosts(StagedHosts):
    """Hosts with the new environment built next to the live one."""

    installed: Mapping[str, PhaseResult] = field(default_factory=dict)


@dataclass(frozen=True)
class VerifiedHosts(InstalledHosts):
    """Hosts whose new environment was checked; the desired state follows the checks."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedHosts(VerifiedHosts):
    """Hosts with the answers of their services."""

    served: Mapping[str, ServeRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckedHosts(ProbedHosts):
    """Hosts whose live environment was checked."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    aggregate: tuple[CheckRecord, ...] = ()
    """Checks that compare hosts."""


@dataclass(frozen=True)
class ChangedHosts(ProbedHosts):
    """Hosts that a command's playbook changed: `stop`, `uninstall`."""

    results: Mapping[str, PhaseResult] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedHosts(ProbedHosts):
    """Hosts whose service was measured with two choices."""

    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

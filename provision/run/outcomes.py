"""What a run knows of its hosts so far: how each phase ended, the newest facts, the newest checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.core.errors import Exit
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseName, PhaseResult


@dataclass
class Outcomes:
    """Mappings by host name, which phases add to."""

    results: dict[str, dict[PhaseName, PhaseResult]] = field(default_factory=dict)
    facts: dict[str, HostFacts] = field(default_factory=dict)
    """The newest facts of each host, as the run's folder has them."""
    checks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The newest check document of each host."""
    removed: set[str] = field(default_factory=set)
    """Hosts that this run removed the product from."""
    entered: dict[PhaseName, float] = field(default_factory=dict)
    """Seconds from the start of the run to the start of a phase."""
    failures: set[Exit] = field(default_factory=set)
    """Exit codes of what failed so far."""

    def has_failed(self, name: str) -> bool:
        """Return whether a phase failed for a host."""
        return any(result.has_failed for result in self.results.get(name, {}).values())

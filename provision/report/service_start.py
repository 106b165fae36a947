"""Phases of a service start: points in time in the record, durations for people."""

from __future__ import annotations

from collections.abc import Mapping

from provision.core.models.records import Summary
from provision.report.layout import duration

LENGTHS = frozenset({"first_answer"})
"""Phases of a ServeRecord that are durations; all others are seconds since the start of the process."""


def points(phases: Mapping[str, float]) -> dict[str, float]:
    """Return seconds from the start to the end of each phase, in order of time."""
    known = {phase: seconds for phase, seconds in phases.items() if phase not in LENGTHS and seconds >= 0}
    return dict(sorted(known.items(), key=lambda item: item[1]))


def lengths(ends: Mapping[str, float]) -> dict[str, float]:
    """Return the duration of each phase, from `points`."""
    before = 0.0
    found = {}
    for phase, seconds in ends.items():
        found[phase] = seconds - before
        before = seconds
    return found


def words(phase: str) -> str:
    """Return the displayed name of a phase."""
    return "verified" if phase == "proven" else phase.replace("_", " ")


def slowest_start(summary: Summary) -> str | None:
    """Describe the slowest start phase by phase; None without any start."""
    seen = {host.name: points(host.serve.startup_s) for host in summary.hosts if host.serve}
    seen = {name: each for name, each in seen.items() if each}
    if not seen:
        return None
    name = max(seen, key=lambda host: max(seen[host].values()))
    whose = f" on {name}, the slowest of {len(seen)}" if len(seen) > 1 else ""
    shown = ", ".join(f"{words(phase)} {duration(seconds)}" for phase, seconds in lengths(seen[name]).items())
    return f"start of the service{whose}: {shown}; in all {duration(max(seen[name].values()))}"

"""Retention: which runs are kept by number and size; a run needed for a later comparison always stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.core.formatting import format_bytes
from provision.core.models.records import GREEN_STATES
from provision.report.history.runs import RunStatus
from provision.report.layout import count, fold_names

KEEP_RUNS = 100
"""Default number of runs: weeks of daily use."""
KEEP_QUERIES = 30
"""Number of queries that are kept: the last ones, for a look at what they printed."""
GREEN_FILE = "green.json"
"""The green hosts of a run. Its summary has them too, and takes 0.05 s to read for fifty hosts."""
KEEP_MIB = 2048
"""Default total size; a run contains text only."""


@dataclass(frozen=True)
class PastRun:
    """What retention knows about a run."""

    run: str
    run_status: RunStatus
    bytes: int
    green: frozenset[str] = frozenset()
    """Hosts that were green at its end."""


@dataclass(frozen=True)
class Decision:
    """Whether a run is kept, and why."""

    run: str
    bytes: int
    keep: bool
    why: str


def decide(runs: Sequence[PastRun], *, keep: int, most_bytes: int) -> list[Decision]:
    """Decide for every run whether it is kept.

    The newest run, running ones and the last green run of every host are always kept. Others are kept while both limits hold.

    Args:
        runs: Runs, newest first.
        keep: Maximum number of runs.
        most_bytes: Maximum total size in bytes.
    """
    decisions: list[Decision] = []
    seen: set[str] = set()
    total = kept = 0
    for past in runs:
        first_green = [host for host in sorted(past.green) if host not in seen]
        seen |= past.green
        why = _protected(past, first_green, is_newest=not decisions)
        fits_number, fits_size = kept < keep, total + past.bytes <= most_bytes
        if why is None and fits_number and fits_size:
            why = "within the limits"
        if why is not None:
            kept, total = kept + 1, total + past.bytes
            decisions.append(Decision(past.run, past.bytes, keep=True, why=why))
        else:
            limit = count(keep, "run") if not fits_number else format_bytes(most_bytes)
            beyond = f"beyond the limit of {limit}"
            decisions.append(Decision(past.run, past.bytes, keep=False, why=beyond))
    return decisions


def _protected(past: PastRun, first_green: list[str], *, is_newest: bool) -> str | None:
    """Return why a run is kept regardless of the limits."""
    if past.run_status == "running":
        return "it is still running"
    if first_green:
        return f"the last green run of {fold_names(first_green)}"
    return "the newest run" if is_newest else None


def green_hosts(summary: Mapping[str, Any]) -> frozenset[str]:
    """Return the hosts that a summary.json of any release shows as green."""
    try:
        return frozenset(str(host["name"]) for host in summary.get("hosts") or () if _is_green(host))
    except (KeyError, TypeError, AttributeError):
        return frozenset()


def _is_green(host: Mapping[str, Any]) -> bool:
    concerns = (*(host.get("warnings") or ()), *(host.get("deviations") or ()))
    checks = {check["status"] for check in host.get("checks") or ()}
    return host["state"] in GREEN_STATES and bool(host.get("stack")) and not concerns and checks <= {"ok", "skip"}

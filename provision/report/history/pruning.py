"""Removal of runs beyond the retention limits; a run disappears at once or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provision.core.files import folder_bytes
from provision.core.formatting import format_bytes
from provision.core.json_text import parse
from provision.report.history.retention import GREEN_FILE, KEEP_MIB, KEEP_RUNS, Decision, PastRun, decide, green_hosts
from provision.report.history.runs import document, names, run_status
from provision.report.layout import count, table

SLACK = 1.1
"""Factor by which the number of runs may exceed the limit before `prune_quietly` reads all of them."""
MIB = 2**20
_LEAVING = ".leaving-"
"""Prefix of a run that is being removed; no command lists it."""


@dataclass(frozen=True)
class Pruned:
    """Decisions, and problems while carrying them out."""

    decisions: tuple[Decision, ...]
    problems: tuple[str, ...]


def prune(logs: Path, *, keep: int | None = None, max_mib: int | None = None) -> Pruned:
    """Remove runs beyond the limits (default: `KEEP_RUNS` and `KEEP_MIB`); runs that cannot be removed are reported."""
    runs = [_past(logs / name) for name in names(logs)]
    decisions = decide(runs, keep=keep or KEEP_RUNS, most_bytes=(max_mib or KEEP_MIB) * MIB)
    problems = [_sweep(path) for path in logs.glob(f"{_LEAVING}*")]
    problems += [_remove(logs, decision.run) for decision in decisions if not decision.keep]
    return Pruned(tuple(decisions), tuple(problem for problem in problems if problem))


def prune_quietly(logs: Path, *, keep: int | None = None) -> None:
    """Prune after a run; do nothing while there are few runs.

    Args:
        logs: The folder of the runs.
        keep: How many stay; by default as many as `prune` keeps.
    """
    if len(names(logs)) > (keep or KEEP_RUNS) * SLACK:
        prune(logs, keep=keep)


def _past(folder: Path) -> PastRun:
    return PastRun(folder.name, run_status(folder), folder_bytes(folder), _green(folder))


def _green(folder: Path) -> frozenset[str]:
    try:
        found = parse((folder / GREEN_FILE).read_bytes())
        if isinstance(found, list):
            return frozenset(map(str, found))
    except (OSError, ValueError):  # a run of an earlier release, or without a summary
        pass
    return green_hosts(document(folder / "summary.json"))


def _remove(logs: Path, run: str) -> str | None:
    leaving = logs / f"{_LEAVING}{run}"
    try:
        (logs / run).rename(leaving)
    except OSError as error:
        return f"run {run} cannot be removed: {error.strerror}"
    return _sweep(leaving)


def _sweep(leaving: Path) -> str | None:
    try:
        shutil.rmtree(leaving)
    except OSError as error:
        return f"{leaving.name.removeprefix(_LEAVING)} cannot be removed: {error.strerror}: {error.filename}"
    return None


def render(pruned: Pruned) -> str:
    """Return what was removed and kept, each with its reason."""
    gone = [decision for decision in pruned.decisions if not decision.keep]
    kept = [decision for decision in pruned.decisions if decision.keep]
    lines = [f"removed {count(len(gone), 'run')}, {_sum(gone)}; kept {len(kept)}, {_sum(kept)}"]
    rows = [
        ((entry.run, "kept" if entry.keep else "removed", format_bytes(entry.bytes)), entry.why)
        for entry in pruned.decisions
    ]
    return "\n".join([*lines, *table(rows), *(f"problem: {problem}" for problem in pruned.problems)])


def _sum(decisions: Iterable[Decision]) -> str:
    return format_bytes(sum(decision.bytes for decision in decisions))

"""Removes runs that retention lets go: each one whole, so that nobody reads half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provision.core.formatting import size
from provision.report.history.retention import KEEP_MIB, KEEP_RUNS, Decision, PastRun, decide, green_hosts
from provision.report.history.runs import document, names, run_status
from provision.report.layout import count, table

SLACK = 1.1
"""By how much the number of runs may outgrow the limit before the quiet way does anything: it costs reading all of them."""
MIB = 2**20
_LEAVING = ".leaving-"
"""A run on its way out; no command sees it any more."""


@dataclass(frozen=True)
class Pruned:
    """What was decided, and what of it could not be done."""

    decisions: tuple[Decision, ...]
    problems: tuple[str, ...]


def prune(logs: Path, *, keep: int | None = None, max_mib: int | None = None) -> Pruned:
    """Remove the runs beyond the limits, by default `KEEP_RUNS` and `KEEP_MIB`; what cannot be removed is told, and the rest goes on."""
    runs = [_past(logs / name) for name in names(logs)]
    decisions = decide(runs, keep=keep or KEEP_RUNS, most_bytes=(max_mib or KEEP_MIB) * MIB)
    problems = [_sweep(path) for path in logs.glob(f"{_LEAVING}*")]
    problems += [_remove(logs, decision.run) for decision in decisions if not decision.keep]
    return Pruned(tuple(decisions), tuple(problem for problem in problems if problem))


def prune_quietly(logs: Path) -> None:
    """After a run: nothing at all while there are few runs, else the same with the limits that hold by default."""
    if len(names(logs)) > KEEP_RUNS * SLACK:
        prune(logs)


def _past(folder: Path) -> PastRun:
    summary = document(folder / "summary.json")
    return PastRun(folder.name, run_status(folder), _bytes(folder), green_hosts(summary))


def _bytes(folder: Path) -> int:
    """What a folder's files hold; links count as nothing."""
    total = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # of a run at work: a file that was renamed meanwhile
                total += os.lstat(os.path.join(path, file)).st_size  # noqa: PTH118 - thousands of them
    return total


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
    """What was removed and what is kept, each with its reason."""
    gone = [decision for decision in pruned.decisions if not decision.keep]
    kept = [decision for decision in pruned.decisions if decision.keep]
    lines = [f"removed {count(len(gone), 'run')}, {_sum(gone)}; kept {len(kept)}, {_sum(kept)}"]
    rows = [
        ((entry.run, "kept" if entry.keep else "removed", size(entry.bytes)), entry.why) for entry in pruned.decisions
    ]
    return "\n".join([*lines, *table(rows), *(f"problem: {problem}" for problem in pruned.problems)])


def _sum(decisions: Iterable[Decision]) -> str:
    return size(sum(decision.bytes for decision in decisions))

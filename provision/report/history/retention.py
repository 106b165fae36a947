"""Retention: which runs are kept by number and size, and the removal of the others.

A run needed for a later comparison always stays. One that is removed disappears at once or not at all.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.core.files import folder_bytes
from provision.core.formatting import format_bytes
from provision.report.difference import connections
from provision.report.history.runs import RunStatus, green_hosts, names, run_status
from provision.report.layout import count, fold_names, table

KEEP_RUNS = 100
"""Default number of runs: weeks of daily use."""
KEEP_QUERIES = 30
"""Number of queries that are kept: the last ones, for a look at what they printed."""
KEEP_MIB = 2048
"""Default total size; a run contains text only."""
MOST_WAYS = 5
"""Ways to a host of one name whose last green runs are kept: hosts that are made anew again and again have many."""
SLACK = 1.1
"""Factor by which the number of runs may exceed the limit before `prune_quietly` reads all of them."""
MIB = 2**20
_LEAVING = ".leaving-"
"""Prefix of a run that is being removed; no command lists it."""


@dataclass(frozen=True)
class PastRun:
    """What retention knows about a run."""

    run: str
    run_status: RunStatus
    bytes: int
    green: frozenset[tuple[str, object]] = frozenset()
    """Hosts that were green at its end, each with the way that it was reached: inventories may share a name."""


@dataclass(frozen=True)
class Decision:
    """Whether a run is kept, and why."""

    run: str
    bytes: int
    keep: bool
    why: str


def decide(runs: Sequence[PastRun], *, keep: int, most_bytes: int) -> list[Decision]:
    """Decide for every run, the newest first, whether it is kept.

    The newest run, running ones and the last green run of every host are always kept. Others are kept while both limits hold: of the
    number of runs, and of their total size in bytes.
    """
    decisions: list[Decision] = []
    seen: set[tuple[str, object]] = set()
    total = kept = 0
    for past in runs:
        ways = Counter(name for name, _ in seen)
        first_green = sorted({name for name, _ in past.green - seen if ways[name] < MOST_WAYS})
        seen |= past.green
        is_kept, why = True, "within the limits"
        if past.run_status == "running":
            why = "it is still running"
        elif first_green:
            why = f"the last green run of {fold_names(first_green)}"
        elif not decisions:
            why = "the newest run"
        elif kept >= keep or total + past.bytes > most_bytes:
            limit = count(keep, "run") if kept >= keep else format_bytes(most_bytes)
            is_kept, why = False, f"beyond the limit of {limit}"
        kept, total = kept + is_kept, total + past.bytes * is_kept
        decisions.append(Decision(past.run, past.bytes, is_kept, why))
    return decisions


@dataclass(frozen=True)
class Pruned:
    """Decisions, and problems while carrying them out."""

    decisions: tuple[Decision, ...]
    problems: tuple[str, ...]


def prune(logs: Path, *, keep: int | None = None, max_mib: int | None = None) -> Pruned:
    """Remove runs beyond the limits (default: `KEEP_RUNS` and `KEEP_MIB`); runs that cannot be removed are reported."""
    folders = [logs / name for name in names(logs)]
    runs = [PastRun(each.name, run_status(each), folder_bytes(each), _green(each)) for each in folders]
    decisions = decide(runs, keep=keep or KEEP_RUNS, most_bytes=(max_mib or KEEP_MIB) * MIB)
    problems = [_sweep(path) for path in logs.glob(f"{_LEAVING}*")]
    problems += [_remove(logs, decision.run) for decision in decisions if not decision.keep]
    return Pruned(tuple(decisions), tuple(problem for problem in problems if problem))


def prune_quietly(logs: Path, *, keep: int | None = None) -> None:
    """Prune after a run to `keep` runs, by default as many as `prune` keeps; do nothing while there are few."""
    if len(names(logs)) > (keep or KEEP_RUNS) * SLACK:
        prune(logs, keep=keep)


def _green(folder: Path) -> frozenset[tuple[str, object]]:
    ways = connections(folder)
    return frozenset((host, ways.get(host)) for host in green_hosts(folder))


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

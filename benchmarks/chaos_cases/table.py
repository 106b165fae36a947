"""Rows of runs: kept as each ends, read again when the benchmark is resumed, and counted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

Result = Literal["as undisturbed", "differs", "not green", "not made", "hung", "error"]
GOOD: Result = "as undisturbed"
NOT_COUNTED: tuple[Result, ...] = ("not made",)
"""The run was over before the fault could be made."""


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file, so that it outlives this process."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def kept(path: Path, seed: int) -> list[dict[str, Any]]:
    """Return the rows of a seed, the newest of each run; a half written one at the end is left out, and removed from the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole, _, half = text.rpartition("\n")
    if half:
        path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    rows = (json.loads(line) for line in whole.splitlines())
    newest = {row["run"]: row for row in rows if row["seed"] == seed}
    return [newest[number] for number in sorted(newest)]


def restore(path: Path, published: Path) -> None:
    """Write the rows of a published table to a file, as if their runs had been carried out here."""
    if published.exists():
        for row in json.loads(published.read_bytes())["rows"]:
            keep(path, row)


def made(rows: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the numbers of the runs that are done: the others had no fault, or failed."""
    return {row["run"] for row in rows if row["result"] == GOOD}


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many runs there were, and how many ended as an undisturbed host, in all and by fault."""
    counted = [row for row in rows if row["result"] not in NOT_COUNTED]
    by_fault: dict[str, dict[str, int]] = {}
    for row in counted:
        entry = by_fault.setdefault(row["fault"], {"runs": 0, "as_undisturbed": 0})
        entry["runs"] += 1
        entry["as_undisturbed"] += row["result"] == GOOD
    return {
        "runs": len(counted),
        "as_undisturbed": sum(row["result"] == GOOD for row in counted),
        "not_made": len(rows) - len(counted),
        "left_behind": sum(len(row["left"]) for row in counted),
        "by_fault": dict(sorted(by_fault.items())),
    }

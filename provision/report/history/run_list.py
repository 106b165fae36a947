"""List of runs: result, number of hosts, duration, command."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from provision.report.history.runs import RunStatus, document, names, objects, run_status
from provision.report.layout import count, duration, table


@dataclass(frozen=True)
class ListedRun:
    """One run of `logs list`; fields from the summary are None without one."""

    run: str
    run_status: RunStatus
    verdict: str | None
    hosts: int | None
    changed: int | None
    seconds: float | None
    started_at: str | None
    command: str
    user: str | None
    outcome: str
    """The verdict, or the run status; `planned` or `probed` where a green run did no more."""


def listed(folder: Path) -> ListedRun:
    """Return a run from the files written so far."""
    header, summary = document(folder / "run.json"), document(folder / "summary.json")
    hosts = summary.get("hosts", document(folder / "inventory.json").get("hosts"))
    return ListedRun(
        run=folder.name,
        run_status=run_status(folder),
        verdict=_text(summary.get("verdict")),
        hosts=len(hosts) if isinstance(hosts, list) else None,
        changed=_number(summary.get("changed")),
        seconds=_number(summary.get("seconds")),
        started_at=_text(header.get("started_at")),
        command=str(header.get("command", "")),
        user=_text(header.get("user")),
        outcome=outcome(folder, summary),
    )


def outcome(folder: Path, summary: dict[str, Any]) -> str:
    """Return the result of a run in one word; a green run that only probed or planned is called so."""
    verdict = _text(summary.get("verdict"))
    states = {str(host.get("state")) for host in objects(summary.get("hosts"))}
    if verdict == "green" and states and states <= {"planned", "probed"}:
        return "planned" if "planned" in states else "probed"
    return verdict or run_status(folder)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def render(logs: Path) -> str:
    """Return all runs as text, newest first."""
    runs = [listed(logs / name) for name in names(logs)]
    if not runs:
        return f"no run in {logs}"
    return "\n".join(table([_row(run) for run in runs], indent=""))


def render_json(logs: Path) -> str:
    """Return all runs as a JSON list."""
    return json.dumps([asdict(listed(logs / name)) for name in names(logs)], indent=2)


def _row(run: ListedRun) -> tuple[tuple[str, ...], str]:
    hosts = count(run.hosts, "host") if run.hosts is not None else ""
    took = duration(run.seconds) if run.seconds is not None else ""
    return (run.run, run.outcome, hosts, took), run.command

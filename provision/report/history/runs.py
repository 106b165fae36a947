"""Folder of runs: names in order, lookup by name, run status, and the list: result, number of hosts, duration, command."""

import difflib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from provision.core.errors import UsageError
from provision.core.json_text import parse, parse_object
from provision.core.run_folder import QUERIES, is_query, is_running
from provision.report.layout import count, duration, table

RunStatus = Literal["ended", "running", "killed"]
"""Killed: without a summary, and the process is gone."""

GREEN_FILE = "green.json"
"""The green hosts of a run. Its summary tells them too, and takes 0.05 s to read for fifty hosts."""
_SUFFIX = re.compile(r"^(.*Z)-(\d+)$")


def order(name: str) -> tuple[str, int]:
    """Return the sort key of a run or query; the tenth one of a second ends in `-10`."""
    name = name.removeprefix(f"{QUERIES}/")
    numbered = _SUFFIX.match(name)
    return (numbered[1], int(numbered[2])) if numbered else (name, 1)


def names(logs: Path) -> list[str]:
    """Return the names of all runs, newest first."""
    found = (path.parent.name for path in logs.glob("*/run.json") if not path.parent.is_symlink())
    return sorted((name for name in found if not name.startswith(".")), key=order, reverse=True)


def newest_with(logs: Path, host: str, *, besides: str) -> Path | None:
    """Return the folder of the newest run whose summary has a host, other than the named run; None without one."""
    for name in names(logs):
        hosts = objects(document(logs / name / "summary.json").get("hosts"))
        if name != besides and any(one.get("name") == host for one in hosts):
            return logs / name
    return None


def find(logs: Path, run: str | None = None) -> Path:
    """Return the folder of a run; of the newest for None or `latest`, of a query for `queries/NAME`.

    Raises:
        UsageError: There is no such run.
    """
    if run is not None and is_query(run):
        return find(logs / QUERIES, run.removeprefix(f"{QUERIES}/"))
    found = names(logs)
    if not found:
        raise UsageError(f"no run in `{logs}`", hint="make one: ./firstlight provision")
    if run in (None, "latest"):
        return logs / found[0]
    if run not in found:
        near = difflib.get_close_matches(str(run), found, n=1)
        known = f"did you mean `{near[0]}`?" if near else f"the newest is `{found[0]}`"
        raise UsageError(f"no run `{run}` in `{logs}`; {known}", hint="all runs: ./firstlight logs list")
    return logs / str(run)


def document(path: Path) -> dict[str, Any]:
    """Return a JSON object of a run's folder; empty when missing or damaged."""
    try:
        return parse_object(path.read_bytes())
    except (OSError, ValueError):
        return {}


def green_hosts(folder: Path) -> frozenset[str]:
    """Return the hosts that were green at the end of a run; none where it came to no end."""
    try:
        found = parse((folder / GREEN_FILE).read_bytes())
    except (OSError, ValueError):
        return frozenset()
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()


def objects(found: Any) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; empty when it is not a list."""
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def run_status(folder: Path) -> RunStatus:
    """Return whether a run has ended, is running, or was killed."""
    if (folder / "summary.json").exists():
        return "ended"
    return "running" if is_running(document(folder / "run.json")) else "killed"


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
    status, verdict = run_status(folder), _text(summary.get("verdict"))
    states = {str(host.get("state")) for host in objects(summary.get("hosts"))}
    outcome = verdict or status
    if verdict == "green" and states and states <= {"planned", "probed"}:
        outcome = "planned" if "planned" in states else "probed"
    return ListedRun(
        run=folder.name,
        run_status=status,
        verdict=verdict,
        hosts=len(hosts) if isinstance(hosts, list) else None,
        changed=_number(summary.get("changed")),
        seconds=_number(summary.get("seconds")),
        started_at=_text(header.get("started_at")),
        command=str(header.get("command", "")),
        user=_text(header.get("user")),
        outcome=outcome,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def list_text(logs: Path) -> str:
    """Return all runs as text, newest first."""
    rows = []
    for run in (listed(logs / name) for name in names(logs)):
        hosts = count(run.hosts, "host") if run.hosts is not None else ""
        took = duration(run.seconds) if run.seconds is not None else ""
        rows.append(((run.run, run.outcome, hosts, took), run.command))
    return "\n".join(table(rows, indent="")) if rows else f"no run in {logs}"


def list_json(logs: Path) -> str:
    """Return all runs as a JSON list."""
    return json.dumps([asdict(listed(logs / name)) for name in names(logs)], indent=2)

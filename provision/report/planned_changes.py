"""What a run would change, as lines: hosts with the same changes are named together."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.core.formatting import format_bytes
from provision.core.grouping import gather
from provision.core.models.records import PlannedChange
from provision.report.history.runs import document, names, objects
from provision.report.layout import clean, count, duration, fold_names

LOOKED_BACK = 20
"""Runs that are searched for one that changed a host."""


def change_lines(changes: Mapping[str, Sequence[PlannedChange]]) -> list[str]:
    """Return the changes of hosts, which are by their names, as lines; no change where the run would leave a host as it is."""
    groups = gather((tuple(found), host) for host, found in changes.items())
    lines = []
    for found, hosts in groups.items():
        where = f" on {fold_names(hosts)}" if len(groups) > 1 else ""
        if not found:
            lines.append(f"  no changes{where}")
            continue
        width = max(len(change.part) for change in found)
        lines.append(f"  changes{where}")
        lines += [f"    {change.sign} {change.part:<{width}}  {_text(change)}" for change in found]
    return lines


def _text(change: PlannedChange) -> str:
    sent = f"; {format_bytes(change.send_bytes)} to send" if change.send_bytes else ""
    return clean(change.text) + sent


def time_line(logs: Path, changes: Mapping[str, Sequence[PlannedChange]]) -> str | None:
    """Return how long the last run took that changed one of the hosts to be changed; None where there was none."""
    wanted = {host for host, found in changes.items() if found}
    for name in names(logs)[:LOOKED_BACK] if wanted else ():
        summary = document(logs / name / "summary.json")
        changed = {host.get("name") for host in objects(summary.get("hosts")) if host.get("changed")}
        if changed & wanted and summary.get("verdict") in ("green", "amber"):
            took = duration(float(summary.get("seconds") or 0.0))
            return f"the last run that changed {count(len(changed), 'host')} took {took}: {name}"
    return None

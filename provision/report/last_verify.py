"""One line on a host's last verification: time, level, checks that failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.report.layout import duration
from provision.report.run_files import seconds_between
from verify.records import LEVELS


def verified_line(last: Mapping[str, Any] | None, now: str, current: str | None = None) -> str:
    """`verified ok at full, 3 h ago; standard, 5 min ago`, and the checks that failed.

    `last` is the document of the last whole run of checks, `now` the time (ISO 8601) that its age is counted to, `current` the folder of the
    environment that is live.
    """
    if not last:
        return "never verified"
    runs = last.get("runs") or {last.get("level"): last}
    shown = [
        f"{level}, {age(runs[level].get('started_at'), now)}"
        for level in reversed(LEVELS)
        if isinstance(runs.get(level), dict)
    ]
    text = f"verified {last.get('status', 'unknown')}" + (f" at {'; '.join(shown)}" if shown else "")
    environment = last.get("environment")
    if current and environment and environment != current:
        text += f"; that was environment {environment}"
    records = [record for record in last.get("checks") or () if record.get("status") in ("fail", "error")]
    return text + "".join(f"; {_failure(record, now)}" for record in records)


def age(since: Any, now: str) -> str:
    """Return `5 min ago`, or the timestamp when the age cannot be computed."""
    seconds = seconds_between(since, now)
    return f"at {since}" if seconds is None else f"{duration(seconds)} ago"


def _failure(record: Mapping[str, Any], now: str) -> str:
    where = f" on {record['device']}" if record.get("device") else ""
    level = f" at {record['level']}" if record.get("level") else ""
    found = record.get("found")
    when = f", found {age(found.get('at'), now)}" if isinstance(found, dict) else ""
    return f"{record.get('id')}{where}: {record['status']}{level}{when}"

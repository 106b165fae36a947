"""`logs diff`: selects the two runs and prints their differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from provision.core.models.records import HostDifference
from provision.report.difference import differences, last_green, read_records
from provision.report.difference.text import render
from provision.report.history.runs import find


def compare(logs: Path, before: str | None = None, after: str | None = None) -> tuple[HostDifference, ...]:
    """Compare run `after` (default: the newest) with run `before` (default: each host's last green run).

    Raises:
        UsageError: There is no such run.
    """
    newer = read_records(find(logs, after))
    older = read_records(find(logs, before)).hosts if before else last_green(logs, newer.run, newer.hosts.keys())
    return differences(older, newer.hosts)


def render_text(found: Sequence[HostDifference]) -> str:
    """Return the differences as text."""
    return render(found).rstrip("\n")


def render_json(found: Sequence[HostDifference]) -> str:
    """Return the differences as a JSON list, one entry a host."""
    return json.dumps([entry.model_dump(mode="json") for entry in found], indent=2)

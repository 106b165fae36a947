"""`logs diff`: which two runs are compared, and what is printed of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from provision.core.models.records import HostDifference
from provision.report.difference import differences, last_green, read_records
from provision.report.difference.text import render
from provision.report.history.runs import find


def compare(logs: Path, before: str | None = None, after: str | None = None) -> tuple[HostDifference, ...]:
    """Run `after` (the newest by default) against run `before`; without one, against each host's last green run.

    Raises UsageError when there is no such run.
    """
    newer = read_records(find(logs, after))
    older = read_records(find(logs, before)).hosts if before else last_green(logs, newer.run, newer.hosts.keys())
    return differences(older, newer.hosts)


def render_text(found: Sequence[HostDifference]) -> str:
    """For people."""
    return render(found).rstrip("\n")


def render_json(found: Sequence[HostDifference]) -> str:
    """For scripts: a list, one entry a host."""
    return json.dumps([entry.model_dump(mode="json") for entry in found], indent=2)

"""Records as plain text, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from verify.records import SEVERITY, fold_skips

WIDTH = 100
HEAD = f"{'status':<7}{'check':<26}{'device':<9}{'seconds':>7}  "


def render(document: Mapping[str, Any]) -> str:
    """A row a check with its reason; figures and remedy below it where they matter."""
    lines = [f"{HEAD}reason", "-" * WIDTH]
    for record in fold_skips(document["checks"]):
        start = f"{record['status']:<7}{record['id']:<26}{record['device'] or '':<9}{record['seconds']:>7.2f}  "
        lines += wrapped(start, record["reason"] or "-")
        if record["status"] not in ("ok", "skip"):
            lines += wrapped(" " * len(HEAD) + "remedy: ", record["remedy"]) if record["remedy"] else []
            lines += _output(record["evidence"])
    lines += ["-" * WIDTH, _total(document), ""]
    return "\n".join(lines)


def render_times(records: Sequence[Mapping[str, Any]], levels: Mapping[str, str]) -> str:
    """A row a check and device with its seconds and level, and its host where there are several; the slowest first.

    `levels` by check id: what is no check of the registry has none.
    """
    several = len({record["host"] for record in records}) > 1
    lines = [
        "",
        f"{'check':<26}{'device':<9}{'seconds':>7}  {'level':<10}{'host' if several else ''}".rstrip(),
        "-" * WIDTH,
    ]
    for record in sorted(records, key=lambda record: -record["seconds"]):
        start = f"{record['id']:<26}{record['device'] or '':<9}{record['seconds']:>7.2f}"
        host = record["host"] or "" if several else ""
        lines.append(f"{start}  {levels.get(record['id'], ''):<10}{host}".rstrip())
    total = sum(record["seconds"] for record in records)
    return "\n".join([*lines, "-" * WIDTH, f"{total:.1f} s in all checks, several of which run at once", ""])


def render_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a check with what it proves."""
    lines = []
    for row in rows:
        lines += wrapped(f"{row['id']:<26}{row['level']:<10}", row["description"])
    return "\n".join([*lines, ""])


def _total(document: Mapping[str, Any]) -> str:
    counts = Counter(record["status"] for record in document["checks"])
    told = ", ".join(f"{counts[status]} {status}" for status in reversed(SEVERITY) if counts[status])
    torch = document["torch"] or "not importable"
    return (
        f"{document['status']}: {told} in {document['seconds']:.1f} s\n"
        f"level {document['level']}, Python {document['python']}, torch {torch}"
    )


def wrapped(start: str, text: str) -> list[str]:
    """Lines of a text behind a start, as wide as the table."""
    lines = textwrap.wrap(text, WIDTH - len(start), break_on_hyphens=False) or [""]
    return [start + lines[0], *(" " * len(start) + line for line in lines[1:])]


def _output(evidence: Any) -> list[str]:
    """The last lines of what a process wrote that ended without an answer."""
    output = evidence.get("output") if isinstance(evidence, dict) else None
    if not output:
        return []
    return [f"    | {line}"[:WIDTH] for line in output.rstrip().splitlines()[-5:]]

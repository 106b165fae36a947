"""Results as plain text of at most 100 columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from verify.printable import WIDTH, wrapped
from verify.records import SEVERITY, fold_skips

HEAD = f"{'status':<7}{'check':<26}{'device':<9}{'seconds':>7}  "


def render(document: Mapping[str, Any]) -> str:
    """Return a row per check with its reason, and below it figures and remedy where needed."""
    lines = [f"{HEAD}reason", "-" * WIDTH]
    for record in fold_skips(document["checks"]):
        start = f"{record['status']:<7}{record['id']:<26}{record['device'] or '':<9}{record['seconds']:>7.2f}  "
        lines += wrapped(start, record["reason"] or "-")
        if record["status"] not in ("ok", "skip"):
            lines += wrapped(" " * len(HEAD) + "remedy: ", record["remedy"]) if record["remedy"] else []
            lines += _output(record["evidence"])
    lines += ["-" * WIDTH, _total(document), ""]
    return "\n".join(lines)


def render_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per check with its description."""
    lines = []
    for row in rows:
        lines += wrapped(f"{row['id']:<26}{row['level']:<10}", row["description"])
    return "\n".join([*lines, ""])


def _total(document: Mapping[str, Any]) -> str:
    counts = Counter(record["status"] for record in document["checks"])
    details = ", ".join(f"{counts[status]} {status}" for status in reversed(SEVERITY) if counts[status])
    torch = document["torch"] or "not importable"
    return (
        f"{document['status']}: {details} in {document['seconds']:.1f} s\n"
        f"level {document['level']}, Python {document['python']}, torch {torch}"
    )


def _output(evidence: Any) -> list[str]:
    output = evidence.get("output") if isinstance(evidence, dict) else None
    if not output:
        return []
    return [f"    | {line}"[:WIDTH] for line in output.rstrip().splitlines()[-5:]]

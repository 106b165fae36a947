"""Results as plain text of at most 100 columns, and as JUnit XML, which CI servers read."""

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from verify.printable import WIDTH, wrapped
from verify.records import SEVERITY, inapplicable

HEAD = f"{'status':<7}{'check':<26}{'device':<9}{'seconds':>7}  "


def render(document: Mapping[str, Any]) -> str:
    """Return a row per check with its reason, and below it figures and remedy where needed."""
    lines = [f"{HEAD}reason", "-" * WIDTH]
    for record in fold_skips(document["checks"]):
        start = f"{record['status']:<7}{record['id']:<26}{record['device'] or '':<9}{record['seconds']:>7.2f}  "
        lines += wrapped(start, record["reason"] or "-")
        if record["status"] not in ("ok", "skip"):
            lines += wrapped(" " * len(HEAD) + "remedy: ", record["remedy"]) if record["remedy"] else []
            output = record["evidence"].get("output") if isinstance(record["evidence"], dict) else None
            lines += [f"    | {line}"[:WIDTH] for line in (output or "").rstrip().splitlines()[-5:]]
    counts = Counter(record["status"] for record in document["checks"])
    details = ", ".join(f"{counts[status]} {status}" for status in reversed(SEVERITY) if counts[status])
    torch = document["torch"] or "not importable"
    total = f"{document['status']}: {details} in {document['seconds']:.1f} s"
    return "\n".join(
        [*lines, "-" * WIDTH, total, f"level {document['level']}, Python {document['python']}, torch {torch}", ""]
    )


def fold_skips(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of a host, with one for all checks that were skipped for the same reason, or do not apply to this kind of host."""
    absent, lacking = inapplicable(record["reason"] for record in records if record["status"] == "skip")
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for place, record in enumerate(records):
        reason = lacking if record["reason"] in absent else record["reason"]
        groups.setdefault(reason if record["status"] == "skip" else place, []).append(record)
    folded = []
    for reason, group in groups.items():
        counts = Counter(id_.partition(".")[0] for id_ in {record["id"] for record in group})
        families = ", ".join(f"{family} {count}" for family, count in sorted(counts.items()))
        row = {"id": f"{counts.total()} checks", "device": None, "reason": f"{reason} ({families})"}
        folded.append({**group[0], **row} if len(group) > 1 else dict(group[0]))
    return folded


def render_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per check with its description."""
    lines = []
    for row in rows:
        lines += wrapped(f"{row['id']:<26}{row['level']:<10}", row["description"])
    return "\n".join([*lines, ""])


SECONDS = "{:.3f}"
TOGETHER = "comparison of hosts"


def junit(documents: Sequence[Mapping[str, Any]], together: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return JUnit XML with a suite per host and a case per check and device; records that compare hosts form their own suite.

    A warning passes and appears in the output of its case; a status `error` is an error.
    """
    root = ET.Element("testsuites", name="firstlight verify")
    for document in documents:
        host = str(document["host"])
        _suite(root, document["checks"], document["seconds"], name=host, hostname=host, timestamp=_started(document))
    if together:
        seconds = sum(record["seconds"] for record in together)
        _suite(root, together, seconds, name=TOGETHER, timestamp=max(map(_started, documents), default=""))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ET.Element, records: Sequence[Mapping[str, Any]], seconds: float, **about: str) -> None:
    counts = Counter(record["status"] for record in records)
    tests = {"tests": len(records), "failures": counts["fail"], "errors": counts["error"], "skipped": counts["skip"]}
    details = {"time": SECONDS.format(seconds), **{name: str(count) for name, count in tests.items()}}
    suite = ET.SubElement(root, "testsuite", {**about, **details})
    for record in records:
        name = record["id"] if record["device"] is None else f"{record['id']}[{record['device']}]"
        spent = SECONDS.format(record["seconds"])
        case = ET.SubElement(suite, "testcase", classname=f"verify.{record['family']}", name=name, time=spent)
        reason = _of_xml(record["reason"])
        if record["status"] in ("fail", "error"):
            kind = "failure" if record["status"] == "fail" else "error"
            shown = {key: record[key] for key in ("remedy", "figures", "evidence") if record[key]}
            ET.SubElement(case, kind, message=reason, type=record["id"]).text = _of_xml(json.dumps(shown, indent=1))
        elif record["status"] == "skip":
            ET.SubElement(case, "skipped", message=reason)
        else:
            ET.SubElement(case, "system-out").text = f"{record['status']}: {reason}"


def _started(document: Mapping[str, Any]) -> str:
    return str(document["started_at"]).rstrip("Z")


def _of_xml(text: str) -> str:
    """Remove control characters, which XML cannot hold."""
    return "".join(
        letter if letter in "\t\n" or (letter >= " " and letter not in "\ufffe\uffff") else "?" for letter in text
    )

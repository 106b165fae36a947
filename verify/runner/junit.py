"""Records as JUnit XML, which CI servers read."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS = "{:.3f}"
TOGETHER = "comparison of hosts"


def junit(documents: Sequence[Mapping[str, Any]], together: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return JUnit XML with a suite per host and a case per check and device; records that compare hosts form their own suite.

    A warning passes and appears in the output of its case; a status `error` is an error.
    """
    root = ET.Element("testsuites", name="firstlight verify")
    for document in documents:
        host = str(document["host"])
        _suite(root, document["checks"], document["seconds"], name=host, hostname=host, timestamp=_time(document))
    if together:
        seconds = sum(record["seconds"] for record in together)
        _suite(root, together, seconds, name=TOGETHER, timestamp=max(map(_time, documents)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ET.Element, records: Sequence[Mapping[str, Any]], seconds: float, **about: str) -> None:
    counts = {
        "tests": len(records),
        "failures": sum(record["status"] == "fail" for record in records),
        "errors": sum(record["status"] == "error" for record in records),
        "skipped": sum(record["status"] == "skip" for record in records),
    }
    details = {name: str(count) for name, count in counts.items()}
    suite = ET.SubElement(root, "testsuite", {**about, "time": SECONDS.format(seconds), **details})
    for record in records:
        _case(suite, record)


def _time(document: Mapping[str, Any]) -> str:
    return str(document["started_at"]).rstrip("Z")


def _case(suite: ET.Element, record: Mapping[str, Any]) -> None:
    name = record["id"] if record["device"] is None else f"{record['id']}[{record['device']}]"
    case = ET.SubElement(
        suite, "testcase", classname=f"verify.{record['family']}", name=name, time=SECONDS.format(record["seconds"])
    )
    reason = _printable(record["reason"])
    if record["status"] in ("fail", "error"):
        kind = "failure" if record["status"] == "fail" else "error"
        details = {key: record[key] for key in ("remedy", "figures", "evidence") if record[key]}
        ET.SubElement(case, kind, message=reason, type=record["id"]).text = _printable(json.dumps(details, indent=1))
    elif record["status"] == "skip":
        ET.SubElement(case, "skipped", message=reason)
    else:
        ET.SubElement(case, "system-out").text = f"{record['status']}: {reason}"


def _printable(text: str) -> str:
    """Remove control characters, which XML cannot hold."""
    return "".join(
        letter if letter in "\t\n" or (letter >= " " and letter not in "\ufffe\uffff") else "?" for letter in text
    )

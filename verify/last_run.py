"""What the installation keeps of its last whole run of checks, and what of it holds on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verify.dependencies import FAILED
from verify.records import LEVELS, NEEDS, SERVING, Level, worst_status
from verify.registry import all_checks

OF_FILES = "libraries"
"""The family whose checks are about the environment's own files."""


def read_last_run(prefix: Path | None) -> dict[str, Any]:
    """The document of PREFIX/verify/last.json; empty where there is none that can be read."""
    try:
        document = json.loads((prefix / "verify" / "last.json").read_text()) if prefix else {}
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def lasting_warnings(document: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Warnings of `before` that hold on: of checks whose warning is lasting, and which this document measured not.

    The new record of such a check says so in its reason.
    """
    lasting = {check.id for check in all_checks() if check.lasting}
    lasting -= {record["id"] for record in document["checks"] if record["status"] in ("ok", "warn", "fail")}
    held: dict[str, dict[str, Any]] = {}
    for record in (*(before.get("checks") or ()), *(before.get("carried") or ())):
        if record.get("id") in lasting and record.get("status") in ("warn", "fail"):
            held.setdefault(record["id"], record)
    for record in document["checks"]:
        if record["id"] in held:
            record["reason"] += f"; what an earlier run found holds on: {held[record['id']]['reason']}"
    return list(held.values())


def failed_levels(before: Mapping[str, Any]) -> dict[str, Level]:
    """The checks that stand as failed in the last document, each with the deepest level at which they did."""
    found: dict[str, Level] = {}
    for record in _failures(before):
        found[record["id"]] = max(record["level"], found.get(record["id"], LEVELS[0]), key=LEVELS.index)
    return found


def keep_open_failures(
    document: Mapping[str, Any], before: Mapping[str, Any], *, has_served: bool = False
) -> list[dict[str, Any]]:
    """The records of a document, where failures of `before` stand in place of what refutes them not.

    A failure is refuted when the same check looks as deeply and does not fail. One that an environment's own files had ends with that
    environment, and so does one of a check that has nothing to look at in another one. With `has_served` the service has been started anew and
    proven: where its checks have nothing to look at, nothing is left of their failures.
    """
    records = list(document["checks"])
    is_other = before.get("environment") != document["environment"]
    for failure in _failures(before):
        same = [record for record in document["checks"] if record["id"] == failure["id"]]
        answers = [record for record in same if record["status"] != "skip"]
        has_no_subject = any(not record["reason"].startswith(NEEDS) for record in same if record["status"] == "skip")
        is_gone = is_other and (failure["family"] == OF_FILES or has_no_subject)
        is_gone = is_gone or (has_served and failure["family"] == SERVING and has_no_subject)
        if is_gone or any(_depth(record, document) >= _depth(failure, before) for record in answers):
            continue
        places = [place for place, record in enumerate(records) if _key(record) == _key(failure)]
        passed = [place for place in places if records[place]["status"] not in FAILED]
        start = next(iter(passed), len(records))
        records[start : start + len(passed)] = [_found_before(failure, before)]
    return records


def merge_rerun(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The last document, with what `document` says of checks that were run once more."""
    again = {record["id"] for record in document["checks"]}
    records = [record for record in before.get("checks") or () if record["id"] not in again]
    merged = {**document, **before, "environment": document["environment"], "checks": [*records, *document["checks"]]}
    records = keep_open_failures(merged, before, has_served=True)
    return {**merged, "checks": records, "status": worst_status([record["status"] for record in records])}


def runs_by_level(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """By level, how the last whole run at it went in this environment, and when it began."""
    is_same = before.get("environment") == document["environment"]
    earlier = before.get("runs") if is_same else None
    now = {"status": document["status"], "started_at": document["started_at"]}
    return {**(earlier if isinstance(earlier, dict) else {}), document["level"]: now}


def _failures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The failed records of a document that checks of this release can refute."""
    known = {check.id for check in all_checks()}
    found = []
    for record in document.get("checks") or ():
        level = record.get("level") or document.get("level")
        if record.get("id") in known and record.get("status") in FAILED and level in LEVELS:
            found.append({**record, "level": level})
    return found


def _depth(record: Mapping[str, Any], document: Mapping[str, Any]) -> int:
    return LEVELS.index(record.get("level") or document["level"])


def _key(record: Mapping[str, Any]) -> tuple[Any, Any]:
    return record["id"], record.get("device")


def _found_before(failure: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an earlier run as it stands in a later one's document."""
    if failure.get("found"):
        return failure
    at, level = before.get("started_at"), failure["level"]
    reason = f"{failure['reason']} (found at {level} at {at}; not passed at {level} since)"
    return {**failure, "reason": reason, "seconds": 0.0, "found": {"at": at, "environment": before.get("environment")}}

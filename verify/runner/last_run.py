"""Results of the installation's last complete run, and what later runs take over from them."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.records import BURN_IN, BUSY, LEVELS, NEEDS, SERVING, Level, worst_status
from verify.runner.execution import FAILED
from verify.runner.registry import all_checks

OF_FILES = "libraries"
"""Family of the checks of the environment's own files."""


def read_last_run(prefix: Path | None) -> dict[str, Any]:
    """Read PREFIX/verify/last.json; return an empty document if it cannot be read."""
    return read_json(prefix / "verify" / "last.json") if prefix else {}


def started_at(run: Mapping[str, Any]) -> float:
    """Return when a run began, in seconds since 1970; 0 if it does not say."""
    try:
        return datetime.fromisoformat(run["started_at"].replace("Z", "+00:00")).timestamp()
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0.0


def lasting_warnings(document: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the warnings of `before` that still hold: those of lasting checks that this document did not measure again.

    The new record of such a check gets the warning added to its reason.
    """
    lasting = {check.id for check in all_checks() if check.lasting}
    lasting -= {record["id"] for record in document["checks"] if record["status"] in ("ok", "warn", "fail")}
    held: dict[str, dict[str, Any]] = {}
    for record in (*(before.get("checks") or ()), *(before.get("carried") or ())):
        if record.get("id") in lasting and record.get("status") in ("warn", "fail"):
            held.setdefault(record["id"], record)
    for record in document["checks"]:
        if record["id"] in held:
            record["reason"] += f"; still open from an earlier run: {held[record['id']]['reason']}"
    return list(held.values())


def failed_levels(before: Mapping[str, Any]) -> dict[str, Level]:
    """Return the failed checks of the last document, each with the deepest level at which it failed."""
    found: dict[str, Level] = {}
    for record in _failures(before):
        found[record["id"]] = max(record["level"], found.get(record["id"], LEVELS[0]), key=LEVELS.index)
    return found


def keep_open_failures(
    document: Mapping[str, Any], before: Mapping[str, Any], *, has_served: bool = False
) -> list[dict[str, Any]]:
    """Return the records of a document, with failures of the document `before` that nothing has disproved since.

    A failure ends when the same check passes at the same or a deeper level, on its own device if there are records of that; one of burn-in
    also at level full, whose checks it repeats. Failures of an environment's own files end with that environment, as do failures of checks
    that no longer apply in another environment. With `has_served` the service was restarted and proven since, and failures of serving
    checks that no longer apply end too.
    """
    records = list(document["checks"])
    is_other = before.get("environment") != document["environment"]
    for failure in _failures(before):
        same = [record for record in document["checks"] if record["id"] == failure["id"]]
        same = [record for record in same if record.get("device") == failure.get("device")] or same
        answers = [record for record in same if record["status"] != "skip"]
        skips = [record["reason"] for record in same if record["status"] == "skip"]
        has_no_subject = any(not reason.startswith(NEEDS) and BUSY not in reason for reason in skips)
        is_gone = is_other and (failure["family"] == OF_FILES or has_no_subject)
        is_gone = is_gone or (has_served and failure["family"] == SERVING and has_no_subject)
        needed = min(failure["level"], LEVELS[LEVELS.index(BURN_IN) - 1], key=LEVELS.index)
        if is_gone or any(_depth(record, document) >= LEVELS.index(needed) for record in answers):
            continue
        device = failure.get("device")
        here = [one for one in records if one["id"] == failure["id"] and one.get("device") == device]
        passed = [records.index(one) for one in here if one["status"] not in FAILED]
        start = next(iter(passed), len(records))
        if not failure.get("found"):
            at, level = before.get("started_at"), failure["level"]
            failure |= {"reason": f"{failure['reason']} (found at {level} at {at}; not passed at {needed} since)"}
            failure |= {"seconds": 0.0, "found": {"at": at, "environment": before.get("environment")}}
        records[start : start + len(passed)] = [failure]
    return records


def merge_rerun(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Merge checks that were run again into the last document."""
    again = {record["id"] for record in document["checks"]}
    records = [record for record in before.get("checks") or () if record["id"] not in again]
    merged = {**document, **before, "environment": document["environment"], "checks": [*records, *document["checks"]]}
    records = keep_open_failures(merged, before, has_served=True)
    return {**merged, "checks": records, "status": worst_status([record["status"] for record in records])}


def runs_by_level(document: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status and start of the last complete run at each level in this environment."""
    is_same = before.get("environment") == document["environment"]
    earlier = before.get("runs") if is_same else None
    now = {"status": document["status"], "started_at": document["started_at"]}
    return {**(earlier if isinstance(earlier, dict) else {}), document["level"]: now}


def _failures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the failed records of a document whose checks this release still has."""
    known = {check.id for check in all_checks()}
    found = []
    for record in document.get("checks") or ():
        level = record.get("level") or document.get("level")
        if record.get("id") in known and record.get("status") in FAILED and level in LEVELS:
            found.append({**record, "level": level})
    return found


def _depth(record: Mapping[str, Any], document: Mapping[str, Any]) -> int:
    return LEVELS.index(record.get("level") or document["level"])

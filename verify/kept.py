"""What the installation keeps of its last whole run of checks, and what of it holds on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verify.registry import all_checks


def last(prefix: Path | None) -> dict[str, Any]:
    """The document of PREFIX/verify/last.json; empty where there is none that can be read."""
    try:
        document = json.loads((prefix / "verify" / "last.json").read_text()) if prefix else {}
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def carried(document: Mapping[str, Any], before: Mapping[str, Any]) -> list[dict[str, Any]]:
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

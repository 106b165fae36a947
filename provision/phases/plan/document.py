"""The plan as `plan --json` prints it."""

from __future__ import annotations

from typing import Any

from provision.core.models.stack import Plan, Resolution


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the document of a plan: one host's resolution at the top level, several as `classes` with the same keys."""
    if sum(len(resolution.hosts) for resolution in plan.classes) == 1:
        return {"schema_version": plan.schema_version, **_answer(plan.classes[0])}
    return {"schema_version": plan.schema_version, "classes": [_answer(resolution) for resolution in plan.classes]}


def _answer(resolution: Resolution) -> dict[str, Any]:
    return resolution.model_dump(mode="json")

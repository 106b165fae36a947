"""The plan as `plan --json` prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provision.core.models.planned_change import PlannedChange
from provision.core.models.stack import Plan, Resolution


def to_json(plan: Plan, changes: Mapping[str, Sequence[PlannedChange]]) -> dict[str, Any]:
    """Return the document of a plan: one host's resolution at the top level, several as `classes` with the same keys.

    Args:
        plan: The plan.
        changes: What a run would change, by host.
    """
    found = {name: [one.model_dump(mode="json") for one in these] for name, these in changes.items()}
    document = {"schema_version": plan.schema_version, "changes": found}
    if sum(len(resolution.hosts) for resolution in plan.classes) == 1:
        return {**document, **_answer(plan.classes[0])}
    return {**document, "classes": [_answer(resolution) for resolution in plan.classes]}


def _answer(resolution: Resolution) -> dict[str, Any]:
    return resolution.model_dump(mode="json")

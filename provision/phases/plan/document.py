"""The plan as `plan --json` prints it."""

from __future__ import annotations

from typing import Any

from provision.core.models.stack import Plan, Resolution
from provision.phases.plan.rules import HOST_RULES, RULES


def to_json(plan: Plan) -> dict[str, Any]:
    """Return the document of a plan: one host's resolution at the top level, several as `classes` with the same keys."""
    if sum(len(resolution.hosts) for resolution in plan.classes) == 1:
        return {"schema_version": plan.schema_version, **_answer(plan.classes[0])}
    return {"schema_version": plan.schema_version, "classes": [_answer(resolution) for resolution in plan.classes]}


def rules_table() -> str:
    """Return all rules as the Markdown table of docs/concepts/matching.md."""
    lines = ["| rule | what must hold | facts and settings it reads |", "|---|---|---|"]
    lines += [
        f"| `{rule.id}` | {rule.statement} | {', '.join(rule.reads) or 'none'} |" for rule in (*HOST_RULES, *RULES)
    ]
    return "\n".join(lines)


def _answer(resolution: Resolution) -> dict[str, Any]:
    return resolution.model_dump(mode="json")

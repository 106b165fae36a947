"""The table of rules in docs/concepts/matching.md."""

from __future__ import annotations

from provision.phases.plan.rules import HOST_RULES, RULES

TARGET = "docs/concepts/matching.md"
TABLE = "rules"


def generate() -> str:
    """Return the table: rules on the host first, in the order in which they apply."""
    lines = ["| rule | what must hold |", "|---|---|"]
    lines += [f"| `{rule.id}` | {rule.statement} |" for rule in (*HOST_RULES, *RULES)]
    return "\n".join(lines)

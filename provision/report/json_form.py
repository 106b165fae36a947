"""The summary as JSON."""

from __future__ import annotations

from provision.core.models.records import Summary


def render(summary: Summary) -> str:
    """One document, ending in a newline; a number that JSON cannot hold is null."""
    return summary.model_dump_json(indent=2) + "\n"

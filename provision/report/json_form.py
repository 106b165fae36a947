"""The summary as JSON."""

from __future__ import annotations

from provision.core.models.records import Summary


def render(summary: Summary) -> str:
    """Return one JSON document ending in a newline; non-finite numbers become null."""
    return summary.model_dump_json(indent=2) + "\n"

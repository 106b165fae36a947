"""The table of known-good sets in docs/reference/sets.md."""

from __future__ import annotations

from docs.generators.sets import known_good, measured_sets

TARGET = "docs/reference/sets.md"
TABLE = "known-good sets"


def generate() -> str:
    """Return the table: a row for each torch release."""
    return known_good(measured_sets())

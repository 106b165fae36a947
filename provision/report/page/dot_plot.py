"""Dot plot: the readings of one figure on a line, with their bound.

All dots within the bound form one path of points with round ends, so eight hundred readings are one element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 220
HEIGHT = 20
MARGIN = 6
MOST_MARKED = 64
"""Maximum number of readings beyond the bound that are drawn with a title."""


@dataclass(frozen=True)
class DotPlot:
    """Geometry in units of the plot's box, WIDTH by HEIGHT."""

    inside: str
    """Path of the dots."""
    marks: tuple[tuple[float, str], ...]
    """Position and title of readings beyond the bound."""
    floor: float | None
    ceiling: float | None
    """Positions of the bounds."""


def draw_dot_plot(
    values: Sequence[float],
    *,
    floor: float | None = None,
    ceiling: float | None = None,
    outside: Sequence[tuple[float, str]] = (),
) -> DotPlot:
    """Draw finite readings; the scale starts at zero unless a reading or a bound is below it."""
    bounds = [bound for bound in (floor, ceiling) if bound is not None]
    low = min(0.0, *values, *bounds) if values else 0.0
    high = max(0.0, *values, *bounds) if values else 1.0
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return round(MARGIN + (value - low) / span * (WIDTH - 2 * MARGIN), 1)

    marked = outside[:MOST_MARKED]
    beyond = {place(value) for value, _ in marked}
    dots = sorted({place(value) for value in values} - beyond)
    middle = HEIGHT // 2
    return DotPlot(
        inside="".join(f"M{x:g} {middle}h0" for x in dots),
        marks=tuple((place(value), words) for value, words in marked),
        floor=None if floor is None else place(floor),
        ceiling=None if ceiling is None else place(ceiling),
    )

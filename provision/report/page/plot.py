"""Geometry of charts: lines over a logarithmic axis, and stacked bars. `templates/chart.html` draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from provision.report.layout import clean, number

WIDTH = 360
"""About a phone's screen, so that text keeps its size there; wider screens place charts next to each other."""
TOP = 22
"""Room for the title of the vertical axis."""
BELOW = 36
"""Room for the marks and the title of the horizontal axis."""
RIGHT = WIDTH - 12
LINES_HEIGHT = 170
ROW_HEIGHT = 22
BAR_HEIGHT = 11
LETTER = 6.2
"""Width of a letter of the charts' text."""
LONGEST_LABEL = 22
MOST_MARKS = 7
INSET = 12
"""Distance of the first and last point of a line from the frame."""

Words: TypeAlias = Callable[[float], str]
"""Format of a value at an axis."""
Values: TypeAlias = Mapping[str, Sequence[float | None]]
"""By series one value a place; None where it has none."""
Marks: TypeAlias = tuple[tuple[float, str], ...]
"""Position and text."""


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour: a path with the centres of its dots, or bars as x, y and width."""

    line: str = ""
    dots: tuple[tuple[float, float], ...] = ()
    bars: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Drawing:
    """Geometry in units of the chart's box."""

    left: float
    bottom: float
    x_marks: Marks
    y_marks: Marks
    x_title: str
    y_title: str
    series: tuple[Series, ...]

    WIDTH = WIDTH
    TOP = TOP
    RIGHT = RIGHT
    BAR_HEIGHT = BAR_HEIGHT

    @property
    def height(self) -> float:
        return self.bottom + BELOW


@dataclass(frozen=True)
class Chart:
    """A drawing and the same in numbers."""

    id: str
    title: str
    note: str
    form: Literal["lines", "bars"]
    drawing: Drawing
    legend: tuple[str, ...]
    """Names of the series in the order of their colours, and of the parts of bars."""
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def lines(places: Sequence[str], values: Values, words: Words, *, x_title: str, y_title: str) -> Drawing:
    """Draw a line a series over common places; values are positive, and a missing one is a gap."""
    marks = _logarithmic_marks(values)
    left, bottom = _left([words(mark) for mark in marks]), TOP + LINES_HEIGHT
    step = (RIGHT - left - 2 * INSET) / max(len(places) - 1, 1)
    x_of = [round(left + INSET + index * step, 1) for index in range(len(places))]
    labels = [_short(place) for place in places]
    stride = math.ceil((max(map(len, labels)) + 1) * LETTER / step) if len(places) > 1 else 1
    low, high = math.log10(marks[0]), math.log10(marks[-1])

    def height(value: float) -> float:
        return round(bottom - (math.log10(value) - low) / (high - low) * LINES_HEIGHT, 1)

    def path(row: Sequence[float | None]) -> str:
        drawn, is_open = "", False
        for x, value in zip(x_of, row, strict=True):
            drawn += "" if value is None else f"{'L' if is_open else 'M'}{x} {height(value)}"
            is_open = value is not None
        return drawn

    return Drawing(
        left=left,
        bottom=bottom,
        x_marks=tuple(zip(x_of[::stride], labels[::stride], strict=True)),
        y_marks=tuple((height(mark), words(mark)) for mark in marks),
        x_title=x_title,
        y_title=f"{y_title}, log scale",
        series=tuple(
            Series(path(row), tuple((x, height(v)) for x, v in zip(x_of, row, strict=True) if v is not None))
            for row in values.values()
        ),
    )


def stacked(names: Sequence[str], lengths: Mapping[str, Sequence[float]], *, x_title: str) -> Drawing:
    """Draw a horizontal bar a name from the top with one part a series."""
    labels = [_short(name) for name in names]
    left, rows = _left(labels), [TOP + ROW_HEIGHT * (index + 0.5) for index in range(len(names))]
    longest = max(map(sum, zip(*lengths.values(), strict=True)), default=0.0) or 1.0
    step = next(each for each in _round_numbers(longest) if longest / each <= MOST_MARKS)
    scale = (RIGHT - left) / longest
    ends = [left] * len(names)
    series = []
    for row in lengths.values():
        series.append(
            Series(bars=tuple((round(x, 1), y, round(v * scale, 1)) for x, y, v in zip(ends, rows, row, strict=True)))
        )
        ends = [x + value * scale for x, value in zip(ends, row, strict=True)]
    return Drawing(
        left=left,
        bottom=TOP + ROW_HEIGHT * len(names),
        x_marks=tuple((round(left + i * step * scale, 1), number(i * step)) for i in range(int(longest / step) + 1)),
        y_marks=tuple(zip(rows, labels, strict=True)),
        x_title=x_title,
        y_title="",
        series=tuple(series),
    )


def _logarithmic_marks(values: Values) -> list[float]:
    """Return marks around all values: steps of 1, 2 and 5, or powers of ten where these are too many."""
    known = [value for row in values.values() for value in row if value is not None]
    low, high = min(known), max(known)
    fine = list(_round_numbers(low, high))
    first = max(mark for mark in fine if mark <= low)
    marks = [mark for mark in fine if first <= mark <= min(last for last in fine if last > high)]
    if len(marks) > MOST_MARKS:
        bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
        stride = math.ceil((top - bottom) / (MOST_MARKS - 1)) or 1
        marks = [10.0**power for power in range(bottom, top + stride, stride)]
    return marks


def _round_numbers(low: float, high: float | None = None) -> Sequence[float]:
    """Return 1, 2 and 5 times the powers of ten from below `low` to above `high`."""
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high or low)) + 1
    return [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]


def _left(labels: Sequence[str]) -> float:
    return round(10 + LETTER * max(map(len, labels), default=0), 1)


def _short(label: str) -> str:
    plain = clean(label)
    return plain if len(plain) <= LONGEST_LABEL else f"{plain[: LONGEST_LABEL - 1]}…"

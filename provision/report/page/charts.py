"""Charts: check results over several positions for each class of hosts, as charts.toml declares them, and the starts of services.

`templates/chart.html` draws them: lines over a logarithmic axis, and stacked bars.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias

from provision.core.models.records import HostSummary
from provision.core.tables import rows_of
from provision.report.layout import clean, duration, number
from provision.report.page.hosts import HostsClass
from provision.report.starts import start_lengths, start_phase_words, starts

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


TABLE = Path(__file__).with_name("charts.toml")
_Readings = Mapping[str, Mapping[str, list[float]]]
MOST_DRAWN = 16
"""Hosts drawn, the slowest ones; the table has all."""
COLOURS = 6
"""Colours of the page; the shortest phases share the last one."""


@dataclass(frozen=True)
class Rule:
    """One row of charts.toml, which documents the fields."""

    id: str
    title: str
    note: str
    check: str
    evidence: str
    unit: str
    place: str
    x_title: str
    y_title: str


@cache
def rules() -> tuple[Rule, ...]:
    """The rows of charts.toml."""
    return rows_of(TABLE, "chart", Rule)


def series_charts(classes: Sequence[HostsClass], table: Iterable[Rule] | None = None) -> Iterator[Chart]:
    """Drawings of the classes that measured what a rule names; medians where several devices did."""
    for rule in rules() if table is None else table:
        found = [(each, readings) for each in classes if (readings := _readings(rule, each))]
        for each, readings in found:
            yield _chart(rule, each, readings, is_alone=len(found) == 1)


def _readings(rule: Rule, group: HostsClass) -> _Readings:
    """Values by series and place."""
    found: dict[str, dict[str, list[float]]] = {}
    for host in group.hosts:
        for check in (check for check in host.checks if check.id == rule.check):
            shown = check.evidence.get(rule.evidence) if isinstance(check.evidence, Mapping) else None
            for series, by_place in shown.items() if isinstance(shown, Mapping) else ():
                for place, value in by_place.items() if isinstance(by_place, Mapping) else ():
                    # what is drawn on a logarithmic axis is above zero
                    if isinstance(value, (int, float)) and math.isfinite(value) and value > 0:
                        found.setdefault(str(series), {}).setdefault(str(place), []).append(value)
    return found


def _chart(rule: Rule, group: HostsClass, readings: _Readings, *, is_alone: bool) -> Chart:
    places = sorted(
        {place for by_place in readings.values() for place in by_place},
        key=lambda place: (tuple(int(digits) for digits in re.findall(r"\d+", place)), place),
    )
    middle = {
        name: [median(by_place[place]) if place in by_place else None for place in places]
        for name, by_place in readings.items()
    }
    words: Words = _bytes if rule.unit == "B" else number
    several = max(len(values) for by_place in readings.values() for values in by_place.values())
    notes = [rule.note]
    notes += [] if is_alone else [f"Group {group.number}: {group.names}."]
    notes += [f"Medians of up to {several} readings."] if several > 1 else []
    return Chart(
        id=f"{rule.id}-{group.number}",
        title=rule.title,
        note=" ".join(notes),
        form="lines",
        drawing=lines(places, middle, words, x_title=rule.x_title, y_title=rule.y_title),
        legend=tuple(readings),
        headers=(rule.place, *(name if rule.unit == "B" else f"{name}, {rule.unit}" for name in readings)),
        rows=tuple(
            (place, *(_range(by_place.get(place, []), words) for by_place in readings.values())) for place in places
        ),
    )


def _range(values: list[float], words: Words) -> str:
    if not values:
        return ""
    low, high = words(min(values)), words(max(values))
    return low if low == high else f"{words(median(values))} ({low} to {high})"


def _bytes(value: float) -> str:
    """In powers of ten, since the axis has its marks there: `1.5 GB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{number(value)} B"


def startup(hosts: Iterable[HostSummary]) -> Chart | None:
    """Draw start times of all verified services, the slowest at the top; None without any."""
    points = starts(hosts)
    if not points:
        return None
    order = sorted(points, key=lambda name: -max(points[name].values()))
    phases = tuple(dict.fromkeys(phase for name in order for phase in points[name]))
    drawn = order[:MOST_DRAWN]
    lengths = [start_lengths(points[name]) for name in drawn]
    series = {start_phase_words(phase): [each.get(phase, 0.0) for each in lengths] for phase in phases}
    if len(series) > COLOURS:
        kept = sorted(series, key=lambda name: -sum(series[name]))[: COLOURS - 1]
        rest = [values for name, values in series.items() if name not in kept]
        series = {name: values for name, values in series.items() if name in kept}
        series["other"] = [sum(values) for values in zip(*rest, strict=True)]
    left_out = f" The slowest {len(drawn)} of {len(order)} hosts are drawn." if len(drawn) < len(order) else ""
    return Chart(
        id="startup",
        title="Start of the service",
        note=f"From the start of its process, phase by phase.{left_out}",
        form="bars",
        drawing=stacked(drawn, series, x_title="seconds"),
        legend=tuple(series),
        headers=("host", *(f"{start_phase_words(phase)} after" for phase in phases)),
        rows=tuple(
            (name, *(duration(points[name][phase]) if phase in points[name] else "" for phase in phases))
            for name in order
        ),
    )

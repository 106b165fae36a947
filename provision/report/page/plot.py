"""Charts as SVG, drawn by pygal, styled by the page, without scripts, styles or ids.

pygal's output contains a style sheet, tool tips and their data for a page of its own. These are removed, so that a chart
is a few kilobytes and follows light, dark and print styles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from provision.core.frozen import frozen
from provision.report.layout import clean, number

WIDTH = 420
"""Width of a phone's screen, so that text keeps its size; wider screens place charts next to each other."""
LINES_HEIGHT = 250
BAR_HEIGHT = 15
DOTS_HEIGHT = 26
MOST_MARKS = 7
BARS_MARGIN = 62
LONGEST_LABEL = 22
Words: TypeAlias = Callable[[float], str]
"""Format of a value at an axis."""

UNUSED = frozenset({"defs", "script", "style", "desc"})
UNUSED_CLASSES = frozenset({"plot tooltip-overlay", "plot text-overlay", "titles", "background"})


@frozen
class Chart:
    """A drawing and the same in numbers."""

    id: str
    title: str
    note: str
    form: Literal["lines", "dots", "bars"]
    svg: str
    legend: tuple[str, ...]
    """Names of the series in the order of their colours, and of the parts of bars."""
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def lines(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], words: Words) -> str:
    """Draw lines over common positions on the x axis; values are positive, None where a series has none."""
    import pygal

    places = [_short(label) for label in labels]
    chart = pygal.Line(
        **_common(LINES_HEIGHT, words), **_logarithmic(series), x_labels=places, allow_interruptions=True
    )
    return _draw(chart, series)


def dots(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], words: Words) -> str:
    """Draw one row a label from the top with one dot a series; values are positive, None where a series has none."""
    import pygal

    height = BARS_MARGIN + DOTS_HEIGHT * len(labels)
    places = ["", *(_short(label) for label in labels), ""]  # an empty place keeps the first and last off the frame
    chart = pygal.HorizontalLine(
        **_common(height, words), **_logarithmic(series), x_labels=places, stroke=False, show_x_guides=True
    )
    return _draw(chart, {name: [None, *values, None] for name, values in series.items()})


def stacked(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Draw horizontal bars, one a label from the top, with one part a series."""
    import pygal

    height = BARS_MARGIN + BAR_HEIGHT * len(labels)
    chart = pygal.HorizontalStackedBar(**_common(height, number), x_labels=_upwards(labels))
    return _draw(chart, {name: list(reversed(values)) for name, values in series.items()})


def _logarithmic(series: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """Return a logarithmic axis around all values: steps of 1, 2, 5, or powers of ten where these are too many."""
    values = [value for each in series.values() for value in each if value is not None]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    fine = [step * 10.0**power for power in range(low - 1, high + 2) for step in (1, 2, 5)]
    first = max(mark for mark in fine if mark <= min(values))
    last = min(mark for mark in fine if mark > max(values))
    marks = [mark for mark in fine if first <= mark <= last]
    if len(marks) > MOST_MARKS:
        stride = math.ceil((high - low) / MOST_MARKS) or 1
        marks = [10.0**power for power in range(low, high + stride, stride)]
    # pygal omits a mark exactly at the top
    return {"logarithmic": True, "y_labels": marks, "range": (marks[0], marks[-1] * 1.02), "dots_size": 3}


def _upwards(labels: Sequence[str]) -> list[str]:
    """Return labels in pygal's order, the first at the bottom."""
    return [_short(label) for label in reversed(labels)]


def _short(label: str) -> str:
    """Shorten a label; pygal reserves space for the full label even when it draws less."""
    plain = clean(label)
    return plain if len(plain) <= LONGEST_LABEL else f"{plain[: LONGEST_LABEL - 1]}…"


def _common(height: int, words: Words) -> dict[str, Any]:
    from pygal.style import Style

    return {
        "width": WIDTH,
        "height": height,
        "explicit_size": False,
        "css": [],
        "js": [],
        "classes": ["plot"],
        "disable_xml_declaration": True,
        "show_legend": False,
        "margin": 4,
        "spacing": 4,
        "max_scale": 6,
        "value_formatter": words,
        "style": Style(label_font_size=11, major_label_font_size=11, value_font_size=11),
    }


def _draw(chart: Any, series: Mapping[str, Sequence[float | None]]) -> str:
    for name, values in series.items():
        chart.add(name, values)
    chart.add_xml_filter(_bare)
    drawn: str = chart.render()
    return drawn


def _bare(root: Any) -> Any:
    """Keep only the drawing: lines, bars, axes and their labels."""
    root.attrib.pop("id", None)
    root.attrib["aria-hidden"] = "true"
    _prune(root)
    return root


def _prune(node: Any) -> None:
    for child in list(node):
        is_comment = not isinstance(child.tag, str)
        name = "" if is_comment else child.tag.rpartition("}")[2]
        if is_comment or name in UNUSED or child.attrib.get("class") in UNUSED_CLASSES or name == "title":
            node.remove(child)
        else:
            child.attrib.pop("id", None)
            _prune(child)

"""Charts as SVG: drawn by pygal, coloured by the page's own style, without scripts, styles or ids of their own.

pygal draws for a page of its own: with a style sheet, tool tips that a script moves, and data for them. What a page that holds
many charts cannot use is taken out before the text is made, so that a chart is some kilobytes and follows light, dark and print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.report.layout import clean, number

WIDTH = 420
"""Drawn as wide as a phone shows it, so that its words stay as large as drawn; wider screens put charts side by side."""
LINES_HEIGHT = 250
BAR_HEIGHT = 15
BARS_MARGIN = 62
LONGEST_LABEL = 22
UNUSED = frozenset({"defs", "script", "style", "desc"})
UNUSED_CLASSES = frozenset({"plot tooltip-overlay", "plot text-overlay", "titles", "background"})


@dataclass(frozen=True)
class Chart:
    """A drawing and the same in numbers."""

    id: str
    title: str
    note: str
    svg: str
    legend: tuple[str, ...]
    """Names of the series, in the order of their colours."""
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def lines(labels: Sequence[str], series: Mapping[str, Sequence[float | None]], *, logarithmic: bool) -> str:
    """Lines over the same places on the x axis; null where a series has no value."""
    import pygal  # noqa: PLC0415 - only a page pays for it

    # a logarithm has no place for zero, and pygal draws an axis only around values that it can compare
    chart = pygal.Line(
        **_common(LINES_HEIGHT), x_labels=list(labels), logarithmic=logarithmic, dots_size=2.5, allow_interruptions=True
    )
    return _draw(chart, series)


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Horizontal bars, one a label from the top, made of one part a series."""
    import pygal  # noqa: PLC0415 - only a page pays for it

    chart = pygal.HorizontalStackedBar(
        **_common(BARS_MARGIN + BAR_HEIGHT * len(labels)), x_labels=[_short(label) for label in reversed(labels)]
    )
    return _draw(chart, {name: list(reversed(values)) for name, values in series.items()})


def _short(label: str) -> str:
    """Beside an axis; pygal leaves room for a label as it was, also when it draws less of it."""
    plain = clean(label)
    return plain if len(plain) <= LONGEST_LABEL else f"{plain[: LONGEST_LABEL - 1]}…"


def _common(height: int) -> dict[str, Any]:
    from pygal.style import Style  # noqa: PLC0415 - only a page pays for it

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
        "value_formatter": number,
        "style": Style(label_font_size=11, major_label_font_size=11, value_font_size=11),
    }


def _draw(chart: Any, series: Mapping[str, Sequence[float | None]]) -> str:
    for name, values in series.items():
        chart.add(name, values)
    chart.add_xml_filter(_bare)
    drawn: str = chart.render()
    return drawn


def _bare(root: Any) -> Any:
    """The drawing alone: lines, bars, axes and their words."""
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

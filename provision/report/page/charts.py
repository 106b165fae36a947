"""Charts: check results over several positions for each class of hosts, as charts.toml declares them, and the starts of services."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from provision.core.models.records import HostSummary
from provision.core.tables import rows_of
from provision.report.layout import duration, number
from provision.report.page.hosts import HostsClass
from provision.report.page.plot import Chart, Words, lines, stacked
from provision.report.wording import start_lengths, start_phase_words, starts

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


def series_charts(classes: Iterable[HostsClass], table: Iterable[Rule] | None = None) -> Iterator[Chart]:
    """Drawings of the classes that measured what a rule names; medians where several devices did."""
    groups = tuple(classes)
    for rule in rules() if table is None else table:
        found = [(each, readings) for each in groups if (readings := _readings(rule, each))]
        for each, readings in found:
            yield _chart(rule, each, readings, is_alone=len(found) == 1)


def _readings(rule: Rule, group: HostsClass) -> _Readings:
    """Values by series and place."""
    found: dict[str, dict[str, list[float]]] = {}
    for host in group.hosts:
        for check in (check for check in host.checks if check.id == rule.check):
            shown = check.evidence.get(rule.evidence) if isinstance(check.evidence, Mapping) else None
            for series, place, value in _by_series(shown):
                # what is drawn on a logarithmic axis is above zero
                if isinstance(value, (int, float)) and math.isfinite(value) and value > 0:
                    found.setdefault(series, {}).setdefault(place, []).append(value)
    return found


def _by_series(shown: Any) -> Iterator[tuple[str, str, Any]]:
    for series, by_place in shown.items() if isinstance(shown, Mapping) else ():
        for place, value in by_place.items() if isinstance(by_place, Mapping) else ():
            yield str(series), str(place), value


def _chart(rule: Rule, group: HostsClass, readings: _Readings, *, is_alone: bool) -> Chart:
    places = sorted({place for by_place in readings.values() for place in by_place}, key=_order)
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


def _order(place: str) -> tuple[tuple[int, ...], str]:
    """Places in the order of their numbers."""
    return tuple(int(digits) for digits in re.findall(r"\d+", place)), place


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

"""Tables of the page: what checks measured over several places, for each class of hosts (series.toml), and the starts of services."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TypeAlias

from provision.core.models.records import HostSummary
from provision.core.tables import rows_of
from provision.report.layout import duration, number
from provision.report.page.hosts import HostsClass
from provision.report.starts import start_phase_words, starts

TABLE = Path(__file__).with_name("series.toml")
Words: TypeAlias = Callable[[float], str]
"""Format of a value."""
_Readings = Mapping[str, Mapping[str, list[float]]]
"""Values by series and place."""


@dataclass(frozen=True)
class Table:
    """A table with its title."""

    title: str
    note: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Rule:
    """One row of series.toml, which documents the fields."""

    title: str
    note: str
    check: str
    evidence: str
    unit: str
    place: str


@cache
def rules() -> tuple[Rule, ...]:
    """The rows of series.toml."""
    return rows_of(TABLE, "series", Rule)


def series_tables(classes: Sequence[HostsClass], table: Iterable[Rule] | None = None) -> Iterator[Table]:
    """Tables of the classes that measured what a rule names; medians where several devices did."""
    for rule in rules() if table is None else table:
        found = [(each, readings) for each in classes if (readings := _readings(rule, each))]
        for each, readings in found:
            yield _table(rule, each, readings, is_alone=len(found) == 1)


def _readings(rule: Rule, group: HostsClass) -> _Readings:
    found: dict[str, dict[str, list[float]]] = {}
    for host in group.hosts:
        for check in (check for check in host.checks if check.id == rule.check):
            shown = check.evidence.get(rule.evidence) if isinstance(check.evidence, Mapping) else None
            for series, by_place in shown.items() if isinstance(shown, Mapping) else ():
                for place, value in by_place.items() if isinstance(by_place, Mapping) else ():
                    if isinstance(value, (int, float)) and math.isfinite(value):
                        found.setdefault(str(series), {}).setdefault(str(place), []).append(value)
    return found


def _table(rule: Rule, group: HostsClass, readings: _Readings, *, is_alone: bool) -> Table:
    places = sorted(
        {place for by_place in readings.values() for place in by_place},
        key=lambda place: (tuple(int(digits) for digits in re.findall(r"\d+", place)), place),
    )
    words: Words = _bytes if rule.unit == "B" else number
    several = max(len(values) for by_place in readings.values() for values in by_place.values())
    notes = [rule.note]
    notes += [] if is_alone else [f"Group {group.number}: {group.names}."]
    notes += [f"Medians of up to {several} readings."] if several > 1 else []
    return Table(
        title=rule.title,
        note=" ".join(notes),
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
    """In powers of ten: `1.5 GB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{number(value)} B"


def startup(hosts: Iterable[HostSummary]) -> Table | None:
    """Return when each phase of the start of each service ended, the slowest first; None without any."""
    points = starts(hosts)
    if not points:
        return None
    phases = tuple(dict.fromkeys(phase for ends in points.values() for phase in ends))
    return Table(
        title="Start of the service",
        note="Time from the start of its process to the end of each phase.",
        headers=("host", *(f"{start_phase_words(phase)} after" for phase in phases)),
        rows=tuple(
            (name, *(duration(ends[phase]) if phase in ends else "" for phase in phases))
            for name, ends in sorted(points.items(), key=lambda item: -max(item[1].values()))
        ),
    )

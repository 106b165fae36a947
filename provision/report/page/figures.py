"""Measured figures over all hosts: lowest, median, highest, and the bound; those of the service under load by class and requests at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from provision.core.models.records import CheckRecord, Figure, HostSummary
from provision.report.layout import number

COUNTED = frozenset({"count", "B"})
"""Units of figures that only count what was checked; drawn only with a bound."""
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]", re.IGNORECASE)
_Key = tuple[int, str, str, str, float | None, float | None]
LOAD_CHECK = "serving.load"
LOAD_COLUMNS = {
    "output": "tokens/s",
    "first token p50": "time to first token",
    "first token p99": "p99",
    "between tokens p50": "between tokens",
}
"""Figures of the check, without the number of requests, and what their columns are called."""
_LOAD_NAME = re.compile(r"(.+), (\d+) at once")


@dataclass(frozen=True)
class Reading:
    """One value and where it was measured."""

    host: str
    device: str | None
    value: float

    @property
    def where(self) -> str:
        return f"{self.host} {self.device}" if self.device and self.device != "cpu" else self.host


class FigureRow:
    """One figure of one check over the hosts of a class."""

    def __init__(self, key: _Key, readings: list[Reading], source: str | None) -> None:
        self.hosts_class, self.check, self.name, self.unit, floor, ceiling = key
        least = f"at least {number(floor)}" if floor is not None else ""
        most = f"at most {number(ceiling)}" if ceiling is not None else ""
        self.bound = ", ".join(filter(None, (least, most)))
        """`at least 500`, `at most 0.01`; empty without a bound."""
        self.source, self.readings = source, len(readings)
        values = [reading.value for reading in readings]
        self.low, self.high = (choose(readings, key=lambda reading: reading.value) for choose in (min, max))
        self.middle = median(values)
        self.beyond = sum((floor is not None and v < floor) or (ceiling is not None and v > ceiling) for v in values)
        """How many readings miss the bound."""


def figure_rows(hosts: Iterable[tuple[int, HostSummary]]) -> tuple[FigureRow, ...]:
    """Return rows of figures with a bound first, each kind in the order of its first reading.

    `hosts` are pairs of class number and host.
    """
    readings: dict[_Key, list[Reading]] = {}
    sources: dict[_Key, str | None] = {}
    for class_number, host in hosts:
        for check, figure, value in measured(host.checks):
            key = (class_number, check.id, figure.name, figure.unit, _finite(figure.floor), _finite(figure.ceiling))
            readings.setdefault(key, []).append(Reading(host.name, check.device, value))
            sources.setdefault(key, figure.source)
    rows = [FigureRow(key, each, sources[key]) for key, each in readings.items() if _is_shown(*key[2:])]
    return tuple(sorted(rows, key=lambda row: not row.bound))


def measured(checks: Iterable[CheckRecord]) -> Iterable[tuple[CheckRecord, Figure, float]]:
    """Yield every figure with a finite value, with its check."""
    for check in checks:
        for figure in check.figures:
            if (value := _finite(figure.value)) is not None:
                yield check, figure, value


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_shown(name: str, unit: str, floor: float | None, ceiling: float | None) -> bool:
    if PCI_ADDRESS.search(name):  # of one card: the table of GPUs has it
        return False
    return unit not in COUNTED or floor is not None or ceiling is not None


def load_rows(figures: Iterable[FigureRow]) -> tuple[tuple[str, ...], ...]:
    """Return class, requests at once, and the columns; of several hosts the median and the range."""
    rows: dict[tuple[int, int], dict[str, str]] = {}
    for row in figures:
        name = _LOAD_NAME.fullmatch(row.name) if row.check == LOAD_CHECK else None
        if name and name[1] in LOAD_COLUMNS:
            span = f" ({number(row.low.value)} to {number(row.high.value)})" if row.readings > 1 else ""
            shown = f"{number(row.middle)}{span} {'' if name[1] == 'output' else row.unit}".rstrip()
            rows.setdefault((row.hosts_class, int(name[2])), {})[name[1]] = shown
    return tuple(
        (str(number_), str(at_once), *(cells.get(column, "") for column in LOAD_COLUMNS))
        for (number_, at_once), cells in sorted(rows.items())
    )

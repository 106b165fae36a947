"""Measured figures over all hosts with their bounds, those of the service under load, and a row for each GPU."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from provision.core.models.records import Figure, HostSummary
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
        for check in host.checks:
            for figure in check.figures:
                floor, ceiling = _finite(figure.floor), _finite(figure.ceiling)
                key = (class_number, check.id, figure.name, figure.unit, floor, ceiling)
                if (value := _finite(figure.value)) is not None:
                    readings.setdefault(key, []).append(Reading(host.name, check.device, value))
                    sources.setdefault(key, figure.source)
    rows = [FigureRow(key, each, sources[key]) for key, each in readings.items()]
    # A figure that is named by a PCI address is of one card: the table of GPUs has it.
    shown = [row for row in rows if not PCI_ADDRESS.search(row.name) and (row.unit not in COUNTED or row.bound)]
    return tuple(sorted(shown, key=lambda row: not row.bound))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


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


COLUMNS = (
    "temperature", "power", "SM clock", "memory errors", "PCIe", "NVLink", "bfloat16 matmul", "memory speed",
)  # fmt: skip
SPEEDS = (("speed.gemm", "bfloat16 products"), ("speed.memory", "memory, read and written"))


@dataclass(frozen=True)
class Cell:
    """One value, its bound, and whether it misses that."""

    value: str = ""
    bound: str = ""
    is_beyond: bool = False


@dataclass(frozen=True)
class GpuRow:
    """One GPU of one host."""

    host: str
    device: str
    name: str
    cells: tuple[Cell, ...]
    """In the order of COLUMNS."""

    @property
    def is_odd(self) -> bool:
        return any(cell.is_beyond for cell in self.cells)


@dataclass(frozen=True)
class GpuTable:
    """All GPUs of a run, with the columns of which something is known."""

    columns: tuple[tuple[int, str, str], ...]
    """Place among the cells, title, and the bound where it is the same for all GPUs."""
    rows: tuple[GpuRow, ...]

    @property
    def odd(self) -> tuple[GpuRow, ...]:
        return tuple(row for row in self.rows if row.is_odd)


def gpu_table(hosts: Iterable[HostSummary]) -> GpuTable:
    """Return the GPUs that checks computed on, in the order of hosts and devices."""
    rows = tuple(row for host in hosts for row in _of_host(host))
    columns = []
    for place, title in enumerate(COLUMNS):
        cells = [row.cells[place] for row in rows if row.cells[place].value]
        bounds = {cell.bound for cell in cells}
        if cells:
            columns.append((place, title, bounds.pop() if len(bounds) == 1 else ""))
    return GpuTable(tuple(columns), rows)


def _of_host(host: HostSummary) -> Iterator[GpuRow]:
    figures = {(check.id, check.device or "", figure.name): figure for check in host.checks for figure in check.figures}
    evidence = {(check.id, check.device or ""): check.evidence for check in host.checks}
    found = evidence.get(("devices.ecc", ""))
    cards = [card for card in found if isinstance(card, Mapping)] if isinstance(found, (list, tuple)) else []
    limits = [name.partition(": ")[2] for check, _, name in figures if check == "devices.clocks"]
    # Checks number GPUs in the order of their PCI addresses, as the driver does.
    health = {str(card.get("pci")): card for card in cards} or {address: {} for address in limits}
    devices = {check.device for check in host.checks if re.fullmatch(r"cuda:\d+", check.device or "")}
    for place, device in sorted((int(str(name).partition(":")[2]), str(name)) for name in devices):
        pci, card = [*health.items(), *[("", {})] * (place + 1)][place]
        gemm = evidence.get(("speed.gemm", device))
        device_evidence = gemm if isinstance(gemm, Mapping) else {}
        # Matrix products are the heaviest load of the checks.
        load = device_evidence.get("load")
        now = load if isinstance(load, Mapping) else {}
        limit = figures.get(("devices.clocks", "", f"power limit: {pci}"))
        cells = (
            Cell(_with_unit(now.get("temperature_c") or card.get("temperature_c"), "°C")),
            _limited(_with_unit(now.get("power_w") or card.get("power_w"), "W"), limit),
            Cell(_with_unit(now.get("clock_mhz"), "MHz")),
            _memory_errors(card),
            _pcie(*(figures.get(("devices.pcie", device, name)) for name in ("lanes", "speed"))),
            _measured(figures.get(("devices.nvlink", "", f"links up: {pci}")), "links"),
            *(_measured(figures.get((check, device, figure))) for check, figure in SPEEDS),
        )
        yield GpuRow(host.name, device, str(device_evidence.get("name") or card.get("name") or "GPU"), cells)


def _with_unit(value: Any, unit: str) -> str:
    return f"{number(round(value))} {unit}" if isinstance(value, (int, float)) else ""


def _limited(power: str, limit: Figure | None) -> Cell:
    if limit is None or limit.value is None:
        return Cell(power)
    return Cell(power, f"limit {number(limit.value)} W", is_beyond=_misses(limit))


def _memory_errors(card: Mapping[str, Any]) -> Cell:
    errors, ecc = card.get("uncorrected"), card.get("ecc")
    if isinstance(ecc, (list, tuple)) and ecc and not ecc[0]:
        return Cell("ECC off")
    if not isinstance(errors, (list, tuple)) or not errors:
        return Cell()
    return Cell(str(errors[0]), is_beyond=errors[0] != 0)


def _pcie(lanes: Figure | None, speed: Figure | None) -> Cell:
    if lanes is None or speed is None or lanes.value is None or speed.value is None:
        return Cell()
    text = f"{number(lanes.value)} x {number(speed.value)} GT/s"
    full = f"of {number(lanes.floor or lanes.value)} x {number(speed.floor or speed.value)}"
    is_beyond = _misses(lanes) or _misses(speed)
    return Cell(text, full if is_beyond else "", is_beyond=is_beyond)


def _measured(figure: Figure | None, unit: str | None = None) -> Cell:
    """Return a figure; a speed stands with three digits."""
    if figure is None or figure.value is None:
        return Cell()
    value = f"{figure.value:.3g}" if abs(figure.value) < 1000 else f"{figure.value:.0f}"
    bound = "" if figure.floor is None else f"at least {figure.floor:.0f}"
    return Cell(f"{value} {unit or figure.unit}", bound, is_beyond=_misses(figure))


def _misses(figure: Figure) -> bool:
    return figure.value is not None and figure.floor is not None and figure.value < figure.floor

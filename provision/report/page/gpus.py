"""A row for each GPU: temperature, power, clock, memory errors, links, and measured speeds against their bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provision.core.models.records import CheckRecord, Figure, HostSummary
from provision.report.layout import number

COLUMNS = (
    "temperature", "power", "SM clock", "memory errors", "PCIe", "NVLink", "bfloat16 matmul", "memory speed",
)  # fmt: skip
SPEEDS = (("speed.gemm", "bfloat16 products"), ("speed.memory", "memory, read and written"))
CLOCKS = ("sm", "memory", "power", "temperature")
"""Order in the answer of nvidia-smi that the speed checks keep."""


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
    by_id: dict[str, list[CheckRecord]] = {}
    for check in host.checks:
        by_id.setdefault(check.id, []).append(check)
    devices = {check.device for check in host.checks if re.fullmatch(r"cuda:\d+", check.device or "")}
    seen = _list(_evidence(by_id, "devices.gpus", None).get("seen"), "torch")
    health = {str(card.get("pci")): card for card in _list({"cards": _raw(by_id, "devices.ecc")}, "cards")}
    limits = [figure.name for check in by_id.get("devices.clocks", ()) for figure in check.figures]
    # Checks see GPUs in the order of their PCI addresses, as NVML does.
    addresses = [str(gpu.get("pci")) for gpu in seen] or [*health] or [name.partition(": ")[2] for name in limits]
    for place, device in sorted((int(str(name).partition(":")[2]), str(name)) for name in devices):
        pci = addresses[place] if place < len(addresses) else ""
        card, now = health.get(pci, {}), _clocks(by_id, device)
        name = _evidence(by_id, "speed.gemm", device).get("name") or card.get("name") or "GPU"
        limit = _figure(by_id, "devices.clocks", f"power limit: {pci}")
        cells = (
            Cell(now.get("temperature") or _with_unit(card.get("temperature_c"), "°C")),
            _limited(now.get("power") or _with_unit(card.get("power_w"), "W"), limit),
            Cell(now.get("sm", "")),
            _memory_errors(card),
            _pcie(by_id, device),
            _measured(_figure(by_id, "devices.nvlink", f"links up: {pci}"), "links"),
            *(_measured(_figure(by_id, check, figure, device)) for check, figure in SPEEDS),
        )
        yield GpuRow(host.name, device, str(name), cells)


def _raw(by_id: Mapping[str, list[CheckRecord]], id_: str, device: str | None = None) -> Any:
    return next((check.evidence for check in by_id.get(id_, ()) if device in (None, check.device)), None)


def _evidence(by_id: Mapping[str, list[CheckRecord]], id_: str, device: str | None) -> Mapping[str, Any]:
    found = _raw(by_id, id_, device)
    return found if isinstance(found, Mapping) else {}


def _list(found: Any, key: str) -> list[Mapping[str, Any]]:
    items = found.get(key) if isinstance(found, Mapping) else None
    return [item if isinstance(item, Mapping) else {} for item in items] if isinstance(items, (list, tuple)) else []


def _figure(by_id: Mapping[str, list[CheckRecord]], id_: str, name: str, device: str | None = None) -> Figure | None:
    checks = (check for check in by_id.get(id_, ()) if device in (None, check.device))
    return next((figure for check in checks for figure in check.figures if figure.name == name), None)


def _clocks(by_id: Mapping[str, list[CheckRecord]], device: str) -> Mapping[str, str]:
    """Return what nvidia-smi said at the end of the matrix products, the heaviest load of the checks."""
    said = _evidence(by_id, "speed.gemm", device).get("clocks")
    last = said[-1] if isinstance(said, (list, tuple)) and said else None
    found = dict(zip(CLOCKS, (part.strip() for part in str(last or "").split(",")), strict=False))
    if found.get("temperature", "").isdigit():
        found["temperature"] += " °C"
    if found.get("power", "").endswith(" W"):
        found["power"] = f"{found['power'].partition('.')[0]} W"
    return found


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


def _pcie(by_id: Mapping[str, list[CheckRecord]], device: str) -> Cell:
    lanes, speed = (_figure(by_id, "devices.pcie", name, device) for name in ("lanes", "speed"))
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

"""PCIe link between a card and its slot, as the kernel shows it, for any vendor and without its tools."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from verify.host.views.pci import DEVICES


@dataclass(frozen=True)
class Link:
    """GT/s per lane and lanes: current values, and the maximum that card and slot both support; None if unknown."""

    speed: float | None
    speed_at_most: float | None
    width: int | None
    width_at_most: int | None


def link(address: str, devices: Path = DEVICES) -> Link:
    """Return the link of the card at an address (`0000:1b:00.0`)."""
    card = (devices / address).resolve()
    slot = card.parent
    return Link(
        speed=_number(card / "current_link_speed"),
        speed_at_most=_least(card / "max_link_speed", slot / "max_link_speed"),
        width=_lanes(_number(card / "current_link_width")),
        width_at_most=_lanes(_least(card / "max_link_width", slot / "max_link_width")),
    )


def _number(file: Path) -> float | None:
    """Return the number in `16.0 GT/s PCIe`; None for `Unknown`, a missing file, and 0 or 255 lanes (no link)."""
    try:
        found = re.match(r"\d+(?:\.\d+)?", file.read_text())
    except OSError:
        return None
    return float(found[0]) if found and float(found[0]) not in (0, 255) else None


def _least(*files: Path) -> float | None:
    return min((number for file in files if (number := _number(file)) is not None), default=None)


def _lanes(number: float | None) -> int | None:
    return None if number is None else int(number)

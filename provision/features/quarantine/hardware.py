"""Which failures of a host's checks speak of its hardware (hardware.toml), and of which GPU. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.tables import rows_of

TABLE = Path(__file__).with_name("hardware.toml")
CARD = "cuda:"
"""How torch's devices on cards begin, those of AMD too."""

Check = Mapping[str, Any]
"""A record of a document of checks."""


@dataclass(frozen=True)
class HardwareCheck:
    """A row of hardware.toml, which explains the fields."""

    check: str
    why: str
    figure: str | None = None
    on_cards: bool = False
    unless_failed: tuple[str, ...] = ()
    unless_all_cards: bool = False


@dataclass(frozen=True)
class HardwareFailure:
    """A failure of the hardware."""

    check: str
    text: str
    device: str | None
    """Of torch, in the order of PCI addresses; None where the check is about the whole host."""


def hardware_failure(document: Mapping[str, Any]) -> HardwareFailure | None:
    """Return the most telling failure of a host's hardware; None where nothing speaks of one.

    Failures that an earlier run found do not count: that run marked the host. Injected faults never count.
    """
    if document.get("injected"):
        return None
    checks: Sequence[Check] = document.get("checks") or ()
    failed = {check["family"] for check in checks if check["status"] in ("fail", "error")}
    for row in rows_of(TABLE, "hardware", HardwareCheck):  # the most telling first
        if failed.intersection(row.unless_failed):
            continue
        own = [check for check in checks if check["id"] == row.check and (not row.on_cards or _is_on_card(check))]
        bad = [check for check in own if check["status"] == "fail" and not check.get("found") and _is_meant(check, row)]
        if not bad or (row.unless_all_cards and len(bad) == len(own) > 1):
            continue
        device = bad[0]["device"] if _is_on_card(bad[0]) else None
        return HardwareFailure(row.check, bad[0]["reason"], device)
    return None


def _is_on_card(check: Check) -> bool:
    return str(check.get("device") or "").startswith(CARD)


def _is_meant(check: Check, row: HardwareCheck) -> bool:
    if row.figure is None:
        return True
    return any(
        figure["name"] == row.figure
        and None not in (figure["value"], figure["floor"])
        and figure["value"] < figure["floor"]
        for figure in check.get("figures") or ()
    )

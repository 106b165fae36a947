"""Which failures of a host's checks speak of its hardware (hardware.toml), and of which card. Pure."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from provision.core.models.facts import AmdGpu, HostFacts, NvidiaGpu
from provision.core.tables import rows_of
from provision.features.quarantine.marks import MarkedCard

TABLE = Path(__file__).with_name("hardware.toml")
CARD = "cuda:"
"""How torch's devices on cards begin, those of AMD too."""
CARDS = "devices.gpus"
"""The check whose evidence has the cards in torch's order."""
_PCI = re.compile(r"\b([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\b", re.IGNORECASE)

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
    card: MarkedCard | None


@cache
def hardware_checks() -> tuple[HardwareCheck, ...]:
    """Return the rows of hardware.toml, the most telling first."""
    return rows_of(TABLE, "hardware", HardwareCheck)


def hardware_failure(document: Mapping[str, Any], facts: HostFacts | None) -> HardwareFailure | None:
    """Return the most telling failure of a host's hardware; None where nothing speaks of one.

    Failures that an earlier run found do not count: that run marked the host. Injected faults never count.
    """
    if document.get("injected"):
        return None
    checks: Sequence[Check] = document.get("checks") or ()
    failed = {check["family"] for check in checks if check["status"] in ("fail", "error")}
    for row in hardware_checks():
        if failed.intersection(row.unless_failed):
            continue
        own = [check for check in checks if check["id"] == row.check and (not row.on_cards or _is_on_card(check))]
        bad = [check for check in own if check["status"] == "fail" and not check.get("found") and _is_meant(check, row)]
        if not bad or (row.unless_all_cards and len(bad) == len(own) > 1):
            continue
        return HardwareFailure(row.check, bad[0]["reason"], _card(bad[0], checks, facts))
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


def _card(check: Check, checks: Sequence[Check], facts: HostFacts | None) -> MarkedCard | None:
    """Return what is known of the card of a failure; None where it names none."""
    device = check["device"] if _is_on_card(check) else None
    seen = _seen(device, checks) if device else {}
    address = _place(seen.get("pci") or ("" if device else check["reason"]))
    uuid = seen.get("uuid")
    vendors = (facts.nvidia, facts.amd) if facts else ()
    gpus: list[NvidiaGpu | AmdGpu] = [gpu for vendor in vendors if vendor for gpu in vendor.gpus]
    for gpu in gpus:
        if (uuid and gpu.uuid == uuid) or (address and _place(gpu.pci_address or "") == address):
            known = {"name": gpu.name, "pci_address": gpu.pci_address, "uuid": gpu.uuid or uuid}
            return MarkedCard(device=device, serial=getattr(gpu, "serial", None), **known)
    return MarkedCard(device=device, pci_address=address, uuid=uuid) if device or address else None


def _seen(device: str, checks: Sequence[Check]) -> Mapping[str, Any]:
    """Return what torch says of a device; empty where no check recorded it."""
    for check in checks:
        with suppress(KeyError, TypeError, ValueError, IndexError):
            if check["id"] == CARDS:
                return dict(check["evidence"]["seen"]["torch"][int(device.removeprefix(CARD))])
    return {}


def _place(text: str) -> str | None:
    """Return the first PCI address in a text without its function, which Xid events leave out."""
    found = _PCI.search(text)
    return f"{int(found[1], 16):04x}:{found[2]}:{found[3]}".lower() if found else None

"""Path of writes between cards on the bus: the IOMMU's mode for each card, and ACS on the bridges above it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from verify.host.views.pci import DEVICES

CPU = Path("/proc/cpuinfo")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_EXTENDED, _ACS, _CONTROL = 0x100, 0x000D, 6
"""PCI Express base specification: start of extended capabilities, number of ACS, its control register."""
_REDIRECT = 0b1100
"""P2P Request Redirect and P2P Completion Redirect: such writes go to the root instead of across the switch."""


@dataclass(frozen=True)
class PeerPath:
    """One card; None for what the kernel does not report, or only root may read."""

    pci: str
    iommu: str | None
    """Type of its IOMMU group: `DMA`, `DMA-FQ`, `identity`."""
    redirected_by: tuple[str, ...] | None
    """Bridges above it that redirect."""


def peer_path(address: str, devices: Path = DEVICES) -> PeerPath:
    """Return the path of the card at an address (`0000:1b:00.0`)."""
    card = devices / address
    try:
        iommu = (card / "iommu_group/type").read_text().strip()
    except OSError:
        iommu = None
    above = _ADDRESS.findall(str(card.resolve()))[:-1]
    found = {bridge: redirects(_config(devices / bridge / "config")) for bridge in above}
    known = None if None in found.values() else tuple(bridge for bridge, redirected in found.items() if redirected)
    return PeerPath(address, iommu, known)


def redirects(config: bytes) -> bool | None:
    """Return whether a bridge's ACS redirects writes between cards; None if only root may read its configuration."""
    if len(config) <= _EXTENDED:
        return None if len(config) <= 64 else False
    place = _EXTENDED
    for _ in range((len(config) - _EXTENDED) // 8):
        header = int.from_bytes(config[place : place + 4], "little")
        if header & 0xFFFF == _ACS:
            return bool(int.from_bytes(config[place + _CONTROL : place + _CONTROL + 2], "little") & _REDIRECT)
        place = header >> 20
        if place < _EXTENDED:
            break
    return False


def virtual(cpu: Path = CPU) -> bool:
    """Return whether this is a virtual machine, in which ACS must be on."""
    return bool(re.search(r"^flags\s*:.*\bhypervisor\b", cpu.read_text(errors="replace"), re.MULTILINE))


def _config(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

"""GPUs on the PCI bus, their links and the paths between them, as the kernel shows them: without a driver or its tools."""

import re
from dataclasses import dataclass
from pathlib import Path

from verify.files import small_text
from verify.host.views import Gpu, pci_address
from verify.tables import table

DEVICES = Path("/sys/bus/pci/devices")
NODES = Path("/dev")
CPU = Path("/proc/cpuinfo")
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_EXTENDED, _ACS, _CONTROL = 0x100, 0x000D, 6
"""PCI Express base specification: start of extended capabilities, number of ACS, its control register."""
_REDIRECT = 0b1100
"""P2P Request Redirect and P2P Completion Redirect: such writes go to the root instead of across the switch."""


def gpus(vendor: str, devices: Path = DEVICES, *, integrated: bool = True) -> tuple[Gpu, ...]:
    """Return the GPUs of a vendor (`nvidia`, `amd`) in PCI order; none if the bus cannot be read.

    Selected by class, as bridges, audio functions and network cards of a vendor are there too. Left out are GPUs that are passed to a virtual
    machine, those that the vendor's driver leaves out beside newer ones, and without `integrated` graphics of processors.
    """
    known = table("pci")["vendor"][vendor]
    found: list[tuple[str, str, str]] = []
    for device in sorted(devices.glob("*:*:*.*")):
        kind = (device / "class").read_text().strip().removeprefix("0x")
        is_gpu = (device / "vendor").read_text().strip() == known["id"] and kind.startswith(tuple(known["classes"]))
        chip, driver = small_text(device / "device").strip(), _driver(device)
        is_ours = driver not in table("pci")["passed_on"] and (
            integrated or not chip.startswith(tuple(known["integrated"]))
        )
        if is_gpu and is_ours:
            found.append((device.name, chip, driver))
    oldest = known["oldest"] if any(driver == known["driver"] for _, _, driver in found) else ""
    return tuple(
        Gpu(pci=pci_address(name)) for name, chip, driver in found if driver == known["driver"] or chip >= oldest
    )


def graphics() -> frozenset[str | None]:
    """Return the addresses of AMD processors' own graphics."""
    return frozenset(gpu.pci for gpu in gpus("amd")) - {gpu.pci for gpu in gpus("amd", integrated=False)}


def _driver(device: Path) -> str:
    bound = device / "driver"
    return bound.resolve().name if bound.is_symlink() else ""


def present(vendor: str, nodes: Path = NODES, *, integrated: bool = True) -> bool:
    """Return whether a vendor's GPUs are present: on the bus, or as device files where a sandbox hides the bus.

    Without `integrated`, graphics of processors are none, although their driver creates device files too.
    """
    if gpus(vendor):
        return bool(gpus(vendor, integrated=integrated))
    return any(nodes.glob(table("pci")["vendor"][vendor]["nodes"]))


@dataclass(frozen=True)
class Link:
    """GT/s per lane and lanes: current values, and the maximum that card and slot both support; None if unknown."""

    speed: float | None
    speed_at_most: float | None
    width: int | None
    width_at_most: int | None


def link(address: str, devices: Path = DEVICES) -> Link:
    """Return the link of the card at an address (`0000:1b:00.0`).

    A Radeon has a switch of its own above the GPU, with the same speed at all times: the first port of the switch has the link to the slot
    (github.com/ilya-zlobintsev/LACT issue 334, github.com/nokyan/resources issue 512).
    """
    card = (devices / address).resolve()
    while small_text(card.parent / "vendor").strip() == table("pci")["vendor"]["amd"]["id"]:
        card = card.parent
    slot = card.parent
    return Link(
        speed=_number(card / "current_link_speed"),
        speed_at_most=_least(card / "max_link_speed", slot / "max_link_speed"),
        width=_lanes(_number(card / "current_link_width")),
        width_at_most=_lanes(_least(card / "max_link_width", slot / "max_link_width")),
    )


def _number(file: Path) -> float | None:
    """Return the number in `16.0 GT/s PCIe`; None for `Unknown`, a missing file, and 0 or 255 lanes (no link)."""
    found = re.match(r"\d+(?:\.\d+)?", small_text(file))
    return float(found[0]) if found and float(found[0]) not in (0, 255) else None


def _least(*files: Path) -> float | None:
    return min((number for file in files if (number := _number(file)) is not None), default=None)


def _lanes(number: float | None) -> int | None:
    return None if number is None else int(number)


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
    above = _ADDRESS.findall(str(card.resolve()))[:-1]
    found = {bridge: redirects(_config(devices / bridge / "config")) for bridge in above}
    known = None if None in found.values() else tuple(bridge for bridge, redirected in found.items() if redirected)
    return PeerPath(address, small_text(card / "iommu_group/type").strip() or None, known)


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

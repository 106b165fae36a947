"""GPUs on the PCI bus, seen before and without any driver."""

from __future__ import annotations

from pathlib import Path

from verify.tables import table
from verify.views import Gpu, pci_address

DEVICES = Path("/sys/bus/pci/devices")
NODES = Path("/dev")


def gpus(vendor: str, devices: Path = DEVICES) -> tuple[Gpu, ...]:
    """The GPUs of a vendor (`nvidia`, `amd`) in PCI order; none where the bus cannot be read.

    By class, because a vendor's bridges, audio functions and network cards are on the same bus.
    """
    known = table("pci")["vendor"][vendor]
    found = []
    for device in sorted(devices.glob("*:*:*.*")):
        kind = (device / "class").read_text().strip().removeprefix("0x")
        if (device / "vendor").read_text().strip() == known["id"] and kind.startswith(tuple(known["classes"])):
            found.append(Gpu(pci=pci_address(device.name)))
    return tuple(found)


def present(vendor: str, nodes: Path = NODES) -> bool:
    """Whether a vendor's GPUs are here: on the bus, or by the device files of its driver where a sandbox hides the bus."""
    return bool(gpus(vendor)) or any(nodes.glob(table("pci")["vendor"][vendor]["nodes"]))

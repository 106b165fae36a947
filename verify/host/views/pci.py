"""GPUs on the PCI bus, found without a driver."""

from __future__ import annotations

from pathlib import Path

from verify.host.views import Gpu, pci_address
from verify.tables import table

DEVICES = Path("/sys/bus/pci/devices")
NODES = Path("/dev")


def gpus(vendor: str, devices: Path = DEVICES) -> tuple[Gpu, ...]:
    """Return the GPUs of a vendor (`nvidia`, `amd`) in PCI order; none if the bus cannot be read.

    Selected by class, because bridges, audio functions and network cards of the vendor are on the same bus.
    """
    known = table("pci")["vendor"][vendor]
    found = []
    for device in sorted(devices.glob("*:*:*.*")):
        kind = (device / "class").read_text().strip().removeprefix("0x")
        if (device / "vendor").read_text().strip() == known["id"] and kind.startswith(tuple(known["classes"])):
            found.append(Gpu(pci=pci_address(device.name)))
    return tuple(found)


def present(vendor: str, nodes: Path = NODES) -> bool:
    """Return whether a vendor's GPUs are present: on the bus, or as device files where a sandbox hides the bus."""
    return bool(gpus(vendor)) or any(nodes.glob(table("pci")["vendor"][vendor]["nodes"]))

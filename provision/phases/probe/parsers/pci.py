"""Devices on the PCI bus, which are visible without a driver, and the loaded kernel modules."""

from __future__ import annotations

import re
from dataclasses import dataclass

from provision.core.models.facts import PciGpu
from provision.phases.probe.sections import Section

NVIDIA, AMD, INTEL = "10de", "1002", "8086"
_BRIDGE = "0680"


@dataclass(frozen=True)
class Bus:
    gpus: tuple[PciGpu, ...] = ()
    nvswitches: int | None = None

    def of(self, vendor: str) -> tuple[PciGpu, ...]:
        return tuple(gpu for gpu in self.gpus if gpu.vendor_id == vendor)


def bus(section: Section, unknown: dict[str, str]) -> Bus:
    """Return GPUs and NVSwitches.

    PCI class 12 counts for AMD only: Intel and others use it for devices that are no GPUs.
    """
    if not section.ok:
        unknown["pci_gpus"] = section.failure
        if not section.text:
            return Bus()
    drivers = {
        match[2].lower(): match[1]
        for match in (re.fullmatch(r".*/drivers/([^/]+)/([^/]+)", path) for path in section.values("driver"))
        if match
    }
    devices: dict[str, dict[str, str]] = {}
    for line in section.lines():
        match = re.fullmatch(
            r".*/([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])/(vendor|device|class):0x([0-9a-fA-F]{4,6})",
            line,
        )
        if match:
            devices.setdefault(match[1].lower(), {})[match[2]] = match[3].lower()
    gpus, switches = [], 0
    for address, device in sorted(devices.items()):
        vendor, kind = device.get("vendor", ""), device.get("class", "")
        if vendor == NVIDIA and kind.startswith(_BRIDGE):
            switches += 1
        elif (kind.startswith("03") and vendor in {NVIDIA, AMD, INTEL}) or (kind.startswith("12") and vendor == AMD):
            gpus.append(
                PciGpu(
                    address=address,
                    vendor_id=vendor,
                    device_id=device.get("device", "")[:4],
                    class_id=kind,
                    driver=drivers.get(address),
                )
            )
    return Bus(gpus=tuple(gpus), nvswitches=switches)


def kernel_modules(section: Section, unknown: dict[str, str]) -> tuple[str, ...]:
    if not section.ok:
        unknown["kernel_modules"] = section.failure
    return tuple(section.values("module"))

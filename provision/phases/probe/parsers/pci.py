"""Devices on the PCI bus, which are visible without a driver, their topology, and the loaded kernel modules."""

import re
from dataclasses import dataclass
from typing import Literal

from provision.core.models.facts import BusDevice, PciGpu, Topology
from provision.phases.probe.parsers.values import integer
from provision.phases.probe.sections import Output, Section

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
    section.note_failure(unknown, "kernel_modules")
    return tuple(section.values("module"))


_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NETWORK = "0x02"
_TRANSLATING = ("DMA", "DMA-FQ")
"""Types of IOMMU groups with translated addresses; mappings are flushed at once or by a queue.

Source: the kernel's ABI documentation.
"""


def topology(output: Output, unknown: dict[str, str]) -> Topology | None:
    """Return the topology; None where the bus shows neither cards nor network cards."""
    section = output["topology"]
    if section.status not in (None, 0, 127):
        unknown["topology"] = section.failure
    devices = tuple(filter(None, map(_device, section.values("device"))))
    if not devices:
        return None
    kinds = {line.split("|")[4] for line in section.values("device") if line.count("|") >= 5} - {""}
    iommu: Literal["off", "passthrough", "translating"] | None = None if section.values("iommu") else "off"
    if kinds:
        iommu = "translating" if kinds & set(_TRANSLATING) else "passthrough" if kinds == {"identity"} else None
    return Topology(devices=devices, iommu=iommu, nvlinks=nvlinks(output["nvidia_topology"]))


def nvlinks(section: Section) -> dict[str, int]:
    """Return NVLinks between each pair of cards by `nvidia-smi topo -m`; empty where it prints no matrix."""
    rows = [re.split(r"\t\s*", line) for line in section.lines() if section.ok and re.match(r"\s*GPU\d+\t", line)]
    header = next((row for row in rows if row[0].strip() == ""), [])
    names = [cell.strip() for cell in header[1:]]
    found = {}
    for row in rows:
        first = re.fullmatch(r"GPU(\d+)", row[0].strip())
        for name, cell in zip(names, row[1:], strict=False) if first else ():
            second, joined = re.fullmatch(r"GPU(\d+)", name), re.fullmatch(r"NV(\d+)", cell.strip())
            if first and second and joined and int(first[1]) < int(second[1]):
                found[f"{first[1]}-{second[1]}"] = int(joined[1])
    return found


def _device(line: str) -> BusDevice | None:
    parts = line.split("|")
    if len(parts) < 6:
        return None
    bridges = _ADDRESS.findall(parts[0].lower())
    if not bridges:
        return None
    return BusDevice(
        address=bridges[-1],
        kind="network" if parts[1].startswith(_NETWORK) else "card",
        name=parts[5] or None,
        bridges=tuple(bridges[:-1]),
        numa_node=node if (node := integer(parts[2])) is not None and node >= 0 else None,
        iommu_group=integer(parts[3]),
    )

"""PCI topology: bridges, NUMA nodes and NVLinks of cards and network cards, and the state of the IOMMU."""

from __future__ import annotations

import re
from typing import Literal

from provision.core.models.facts import BusDevice, Topology
from provision.phases.probe.parsers.values import integer
from provision.phases.probe.sections import Output, Section

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
    return Topology(
        devices=devices,
        iommu=_iommu(section, kinds),
        nvlinks=nvlinks(output["nvidia_topology"]),
    )


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


def _iommu(section: Section, kinds: set[str]) -> Literal["off", "passthrough", "translating"] | None:
    if kinds:
        return "translating" if kinds & set(_TRANSLATING) else "passthrough" if kinds == {"identity"} else None
    return None if section.values("iommu") else "off"

"""Processor, memory, disks; devices on the PCI bus, which need no driver to be seen, and loaded kernel modules."""

import re
from dataclasses import dataclass
from typing import Literal

from provision.core.models.facts import BusDevice, Cpu, Disk, Memory, PciGpu, Topology
from provision.core.tables import own_table
from provision.phases.probe.parsers.values import KINDS, integer
from provision.phases.probe.sections import Output, Section

Isa = Literal["amx", "avx512", "avx2", "sse4_2", "neon", "none"]

_MOST_CPUS = 1 << 16
NVIDIA, AMD, INTEL = "10de", "1002", "8086"
_BRIDGE = "0680"
_BUS_LINE = re.compile(
    r".*/([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])/(vendor|device|class):0x([0-9a-fA-F]{4,6})"
)


def isa_level(flags: frozenset[str]) -> Isa | None:
    """Return the highest level whose flags are all present; None without any flags."""
    if not flags:
        return None
    return next((row["level"] for row in own_table(KINDS)["isa"] if flags.issuperset(row["flags"])), "none")


def count_range(text: str) -> int | None:
    """Return how many numbers a kernel list such as `0-63,128` contains."""
    total = 0
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part.strip())
        if not match:
            return None
        total += max(0, int(match[2] or match[1]) - int(match[1]) + 1)
    return total if 0 < total <= _MOST_CPUS else None


def cpu(section: Section, unknown: dict[str, str]) -> Cpu:
    section.note_failure(unknown, "cpu")
    described = dict(re.findall(r"^([A-Za-z][A-Za-z ]*?)[ \t]*:[ \t]*(.*?)[ \t]*$", section.text, re.MULTILINE))
    flags = frozenset((described.get("flags") or described.get("Features") or "").split())
    if section.ok and not flags:
        unknown["cpu.flags"] = "the kernel lists none in /proc/cpuinfo"
    maker, part = described.get("CPU implementer"), described.get("CPU part")
    packages = {
        number for path, number in section.by_file() if path.endswith("physical_package_id") and number.isdecimal()
    }
    return Cpu(
        # The kernel names Arm cores by number only.
        model=described.get("model name") or (f"Arm implementer {maker} part {part}" if maker and part else None),
        flags=tuple(sorted(flags)),
        isa=isa_level(flags),
        logical=count_range(section.value("online") or ""),
        sockets=len(packages) or None,
        numa_nodes=len(section.values("node")) or None,
    )


_SHARED = "/dev/shm"  # noqa: S108 - a mount on the host; nothing is written there
_DF_ROW = re.compile(r"\s([0-9]{1,15})\s+[0-9]{1,15}\s+(-?[0-9]{1,15})\s+(?:-?[0-9]+%|-)\s+(/.*)$")


def disks(section: Section, unknown: dict[str, str]) -> tuple[Disk, ...]:
    """Return one entry per requested path; sizes are None where df gave no answer."""
    found: dict[str, Disk] = {}
    path: str | None = None
    for line in section.lines():
        if line.startswith("path="):
            path = line.removeprefix("path=")
            found.setdefault(path, Disk(path=path))
        elif path is not None and (row := _DF_ROW.search(line)):
            found[path] = Disk(path=path, total=int(row[1]) << 10, free=max(0, int(row[2])) << 10, mount=row[3].strip())
    section.note_failure(unknown, "disks")
    return tuple(found.values())


def cgroup_limit(section: Section, total: int | None) -> int | None:
    """Return the smallest limit of the control group and its parents; None when not below the machine's memory."""
    # Version 1 writes "no limit" as a number near 2**63.
    unlimited = total if total is not None else 1 << 60
    limits = (integer(text) for _, text in section.by_file())
    return min((limit for limit in limits if limit is not None and limit < unlimited), default=None)


def memory(output: Output, mounts: tuple[Disk, ...], unknown: dict[str, str]) -> Memory:
    section, groups = output["memory"], output["cgroup_memory"]
    sizes = {
        name: int(kib) << 10 for name, kib in re.findall(r"^(\w+):\s*([0-9]{1,15}) kB", section.text, re.MULTILINE)
    }
    if "MemTotal" not in sizes:
        unknown["memory.total"] = section.failure
    groups.note_failure(unknown, "memory.cgroup_limit", may_be_absent=True)
    shm = next((disk for disk in mounts if disk.path == disk.mount == _SHARED), None)
    if shm is None:
        unknown["memory.shm"] = f"{_SHARED} is not a mount of its own"
    return Memory(
        total=sizes.get("MemTotal"),
        available=sizes.get("MemAvailable"),
        cgroup_limit=cgroup_limit(groups, sizes.get("MemTotal")),
        shm=shm.total if shm else None,
    )


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
    found = (re.fullmatch(r".*/drivers/([^/]+)/([^/]+)", path) for path in section.values("driver"))
    drivers = {match[2].lower(): match[1] for match in found if match}
    devices: dict[str, dict[str, str]] = {}
    for line in section.lines():
        if match := _BUS_LINE.fullmatch(line):
            devices.setdefault(match[1].lower(), {})[match[2]] = match[3].lower()
    gpus, switches = [], 0
    for address, device in sorted(devices.items()):
        vendor, kind = device.get("vendor", ""), device.get("class", "")
        if vendor == NVIDIA and kind.startswith(_BRIDGE):
            switches += 1
        elif (kind.startswith("03") and vendor in {NVIDIA, AMD, INTEL}) or (kind.startswith("12") and vendor == AMD):
            ids = {"vendor_id": vendor, "device_id": device.get("device", "")[:4], "class_id": kind}
            gpus.append(PciGpu(address=address, driver=drivers.get(address), **ids))
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


def topology(output: Output, bus: Bus, unknown: dict[str, str]) -> Topology | None:
    """Return the topology; None where the bus shows neither cards nor network cards. Other displays, such as a BMC's, are left out."""
    section = output["topology"]
    if section.status not in (None, 0, 127):
        unknown["topology"] = section.failure
    cards = {gpu.address for gpu in (*bus.of(NVIDIA), *bus.of(AMD))}
    found = filter(None, map(_device, section.values("device")))
    devices = tuple(device for device in found if device.kind == "network" or device.address in cards)
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
        numa_node=integer(parts[2]),
        iommu_group=integer(parts[3]),
    )

"""Processor, memory, control group limits and disks."""

import re
from typing import Literal

from provision.core.models.facts import Cpu, Disk, Memory
from provision.core.tables import own_table
from provision.phases.probe.parsers.values import KINDS, integer
from provision.phases.probe.sections import Output, Section

Isa = Literal["amx", "avx512", "avx2", "sse4_2", "neon", "none"]

_MOST_CPUS = 1 << 16


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
    limits = [limit for _, text in section.by_file() if (limit := integer(text)) is not None]
    smallest = min(limits, default=None)
    # Version 1 writes "no limit" as a number near 2**63.
    unlimited = total if total is not None else 1 << 60
    return smallest if smallest is not None and smallest < unlimited else None


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

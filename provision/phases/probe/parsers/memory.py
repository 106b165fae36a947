"""Memory, control group limits and disks."""

from __future__ import annotations

import re

from provision.core.models.facts import Disk, Memory
from provision.phases.probe.parsers.values import integer
from provision.phases.probe.sections import Output, Section

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
    if not section.ok:
        unknown["disks"] = section.failure
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
    if not groups.ok and not groups.absent:
        unknown["memory.cgroup_limit"] = groups.failure
    shm = next((disk for disk in mounts if disk.path == disk.mount == _SHARED), None)
    if shm is None:
        unknown["memory.shm"] = f"{_SHARED} is not a mount of its own"
    return Memory(
        total=sizes.get("MemTotal"),
        available=sizes.get("MemAvailable"),
        cgroup_limit=cgroup_limit(groups, sizes.get("MemTotal")),
        shm=shm.total if shm else None,
    )

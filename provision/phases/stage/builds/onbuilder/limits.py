"""How much of the machine a build may take: cores and memory, within the limits of every cgroup above this process (v1 and v2)."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 1 << 30


def cpus(root: Path = Path("/"), allowed: int | None = None) -> int:
    """Cores: those that this process may run on, and no more than its cgroups' quota."""
    count = float(len(os.sched_getaffinity(0)) if allowed is None else allowed)
    for folder in _groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, int(quota) / int(period))
    return max(1, int(count))


def memory(root: Path = Path("/")) -> int:
    """Bytes that are free to be used: of the machine, and below the limit of each cgroup; pages that can be dropped count as free."""
    free = _meminfo(root)
    for folder in _groups(root, "memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            free = min(free, int(limit) - max(0, int(used) - _droppable(folder)))
    return max(0, free)


def jobs(cores: int, free: int, gib_each: float) -> int:
    """Compilers at once: one a core, and no more than memory holds; always one."""
    return max(1, min(cores, int(free / (gib_each * GIB))))


def told(cores: int, free: int, at_once: int, gib_each: float) -> str:
    """How many there are and why, in words; where one compiler alone may need more than there is, that too."""
    text = "{:.1f} GiB free, {} cores: {} at once".format(free / GIB, cores, at_once)  # noqa: UP032 (for Python 3.8)
    if free < gib_each * GIB:
        text += "; one may take {:.0f} GiB, and is killed where there is no more".format(gib_each)  # noqa: UP032 (as above)
    return text


def _groups(root: Path, controller: str) -> list[Path]:
    """The folders of this process's cgroup and of all above it. Inside a container the path may be the host's: then its mount alone."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
            if not (mount / "cgroup.controllers").exists():
                mount = root / "sys/fs/cgroup/unified"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            if not mount.is_dir():
                mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        while folder != mount and mount in folder.parents:
            found.append(folder)
            folder = folder.parent
        found.append(mount)
    return [folder for folder in found if folder.is_dir()]


def _meminfo(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return 0


def _droppable(folder: Path) -> int:
    """Bytes of files that were read long ago, which the kernel gives up before it refuses memory."""
    values = dict(line.split(None, 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    return int(values.get("total_inactive_file", values.get("inactive_file", "0")))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

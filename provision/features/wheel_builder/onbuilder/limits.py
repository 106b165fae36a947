"""Cores and memory that a build may use, within the limits of every parent cgroup (v1 and v2)."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 1 << 30


def cpus(root: Path = Path("/"), allowed: int | None = None) -> int:
    """Return the cores that this process may use, within the quota of its cgroups."""
    count = float(len(os.sched_getaffinity(0)) if allowed is None else allowed)
    for folder in _groups(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, int(quota) / int(period))
    return max(1, int(count))


def memory(root: Path = Path("/")) -> int:
    """Return the free bytes of the machine, within the limits of each cgroup. Droppable page cache counts as free."""
    lines = [line.split() for line in _text(root / "proc/meminfo").splitlines()]
    free = next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), 0)
    for folder in _groups(root, "memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit():
            # The kernel frees inactive page cache before it refuses memory.
            values = dict(line.split(None, 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
            droppable = int(values.get("total_inactive_file", values.get("inactive_file", "0")))
            free = min(free, int(limit) - max(0, int(used) - droppable))
    return max(0, free)


def jobs(cores: int, free: int, gib_each: float) -> int:
    """Return the number of parallel compilers: at most one a core, as many as memory allows, at least one."""
    return max(1, min(cores, int(free / (gib_each * GIB))))


def describe(cores: int, free: int, at_once: int, gib_each: float) -> str:
    """Describe the number of jobs and its reasons, with a warning when one compiler may need more memory than is free."""
    text = "{:.1f} GiB free, {} cores: {} at once".format(free / GIB, cores, at_once)  # noqa: UP032 (for Python 3.8)
    if free < gib_each * GIB:
        text += "; one may need {:.0f} GiB and be killed for lack of memory".format(gib_each)  # noqa: UP032 (as above)
    return text


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and its parents. In a container the path may be the host's; then only the mount."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # One hierarchy for all, or one for these controllers; beside such a one, that for all limits nothing.
        mount = root / "sys/fs/cgroup" / controllers
        folder = mount / path.lstrip("/")
        while folder != mount and mount in folder.parents:
            found.append(folder)
            folder = folder.parent
        found.append(mount)
    return [folder for folder in found if folder.is_dir()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

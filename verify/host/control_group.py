"""Cores and memory that the control groups of this process leave to it. Python 3.8 runs this, too: a build host imports it alone."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(root: Path = Path("/"), allowed: int | None = None) -> int:
    """Return the cores that this process may use, within the quota of its control group and of each above it; at least 1.

    Args:
        root: Where `proc` and `sys` lie.
        allowed: Cores of its affinity; by default as the kernel says.
    """
    count = float(len(os.sched_getaffinity(0)) if allowed is None else allowed)
    for folder in _groups(root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            count = min(count, int(quota) / int(period))
    return max(1, int(count))


def free_memory(root: Path = Path("/")) -> int:
    """Return the free bytes of the machine, within the limit of each control group. Page cache that can be dropped counts as free."""
    lines = [line.split() for line in _text(root / "proc/meminfo").splitlines()]
    free = next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)
    if free is None:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _groups(root):
        limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            # The kernel frees inactive page cache before it refuses memory.
            values = dict(line.split(None, 1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
            free = min(free, int(limit) - max(0, int(used) - int(values.get("inactive_file", "0"))))
    return max(0, free)


def _groups(root: Path) -> list[Path]:
    """Return the folders of this process's cgroup (v2) and its parents. In a container the path may be the host's; then only the mount."""
    mount = root / "sys/fs/cgroup"
    lines = [line for line in _text(root / "proc/self/cgroup").splitlines() if line.startswith("0::")]
    folder = mount / lines[0][len("0::/") :] if lines else mount
    return [each for each in (folder, *folder.parents) if each.is_dir() and (each == mount or mount in each.parents)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

"""Limits of control groups, from file trees as the kernel shows them."""

import os
from pathlib import Path

import pytest

from verify.host.control_group import free_memory, usable_cores

GIB = 1 << 30


def tree(root: Path, files: dict[str, str]) -> Path:
    base = {"proc/meminfo": f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {32 << 20} kB\n"}
    for name, text in {**base, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(*levels: dict[str, str]) -> dict[str, str]:
    """A unified hierarchy, outermost level first."""
    files = {"sys/fs/cgroup/cgroup.controllers": "cpu memory", "proc/self/cgroup": "0::/a/b/c\n"}
    for folder, level in zip(("a", "a/b", "a/b/c"), levels, strict=False):
        files |= {f"sys/fs/cgroup/{folder}/{name}": f"{text}\n" for name, text in level.items()}
    return files


def test_without_limits_the_resources_of_the_machine_count(tmp_path: Path) -> None:
    root = tree(tmp_path, v2({"memory.max": "max", "memory.current": "5", "cpu.max": "max 100000"}))
    assert (usable_cores(root, 16), free_memory(root)) == (16, 32 * GIB)


def test_the_narrowest_level_of_the_unified_hierarchy_counts(tmp_path: Path) -> None:
    outer = {"memory.max": str(8 * GIB), "memory.current": str(3 * GIB), "cpu.max": "250000 100000"}
    inner = {"memory.max": str(20 * GIB), "memory.current": str(GIB), "cpu.max": "400000 100000"}
    root = tree(tmp_path, v2(outer, {}, inner))
    assert (usable_cores(root, 16), free_memory(root)) == (2, 5 * GIB)


def test_pages_that_can_be_dropped_are_free(tmp_path: Path) -> None:
    level = {
        "memory.max": str(8 * GIB),
        "memory.current": str(7 * GIB),
        "memory.stat": f"anon 1\ninactive_file {6 * GIB}",
    }
    assert free_memory(tree(tmp_path, v2(level))) == 7 * GIB


def test_in_a_container_the_mount_has_the_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/docker/0123abcd\n",
        "sys/fs/cgroup/memory.max": str(2 * GIB),
        "sys/fs/cgroup/memory.current": str(GIB),
    }
    assert free_memory(tree(tmp_path, files)) == GIB


def test_a_kernel_that_does_not_say_what_is_available_says_what_is_free(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\n"})
    assert 0 < free_memory(root) < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("quota", "cores"), [("50000 100000", 1), ("250000 100000", 2), ("1600000 100000", 8)])
def test_a_quota_gives_whole_cores_at_least_one_and_none_above_the_affinity(
    tmp_path: Path, quota: str, cores: int
) -> None:
    assert usable_cores(tree(tmp_path, v2({"cpu.max": quota})), 8) == cores

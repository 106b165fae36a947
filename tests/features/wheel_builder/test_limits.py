"""Limits from file trees as the kernel shows them."""

from pathlib import Path

import pytest

from provision.features.wheel_builder.onbuilder import facts

GIB = facts.GIB


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
    assert (facts.cpus(root, 16), facts.memory(root)) == (16, 32 * GIB)


def test_the_narrowest_level_of_the_unified_hierarchy_counts(tmp_path: Path) -> None:
    outer = {"memory.max": str(8 * GIB), "memory.current": str(3 * GIB), "cpu.max": "250000 100000"}
    inner = {"memory.max": str(20 * GIB), "memory.current": str(GIB), "cpu.max": "400000 100000"}
    root = tree(tmp_path, v2(outer, {}, inner))
    assert (facts.cpus(root, 16), facts.memory(root)) == (2, 5 * GIB)


def test_pages_that_can_be_dropped_are_free(tmp_path: Path) -> None:
    level = {
        "memory.max": str(8 * GIB),
        "memory.current": str(7 * GIB),
        "memory.stat": f"anon 1\ninactive_file {6 * GIB}",
    }
    assert facts.memory(tree(tmp_path, v2(level))) == 7 * GIB


def test_in_a_container_the_mount_has_the_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/docker/0123abcd\n",
        "sys/fs/cgroup/memory.max": str(2 * GIB),
        "sys/fs/cgroup/memory.current": str(GIB),
    }
    assert facts.memory(tree(tmp_path, files)) == GIB


@pytest.mark.parametrize(
    ("cores", "free", "each", "jobs"),
    [(16, 64 * GIB, 7.0, 9), (2, 64 * GIB, 7.0, 2), (16, 3 * GIB, 7.0, 1), (1, 0, 7.0, 1)],
)
def test_the_number_of_jobs_follows_cores_and_memory_and_is_never_zero(
    cores: int, free: int, each: float, jobs: int
) -> None:
    assert facts.jobs(cores, free, each) == jobs


def test_a_possible_lack_of_memory_is_reported_before_a_compiler_is_killed() -> None:
    assert facts.describe(2, 23 * GIB, 2, 7.0) == "23.0 GiB free, 2 cores: 2 at once"
    text = facts.describe(2, 3 * GIB, 1, 7.0)
    assert text == "3.0 GiB free, 2 cores: 1 at once; one may need 7 GiB and be killed for lack of memory"

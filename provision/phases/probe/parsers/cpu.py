"""Processor facts: model, flags, sockets and NUMA nodes."""

from __future__ import annotations

import re
from typing import Literal

from provision.core.models.facts import Cpu
from provision.phases.probe.sections import Section

Isa = Literal["amx", "avx512", "avx2", "sse4_2", "neon", "none"]

# Flags that vLLM's CPU builds require, highest level first. Source: vLLM's cmake/cpu_extension.cmake.
_LEVELS: tuple[tuple[Isa, frozenset[str]], ...] = (
    ("amx", frozenset({"amx_tile", "amx_bf16", "avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    ("avx512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"})),
    ("avx2", frozenset({"avx2"})),
    ("sse4_2", frozenset({"sse4_2"})),
    ("neon", frozenset({"asimd"})),
)
_MOST_CPUS = 1 << 16


def isa_level(flags: frozenset[str]) -> Isa | None:
    """Return the highest level whose flags are all present; None without any flags."""
    if not flags:
        return None
    return next((level for level, wanted in _LEVELS if wanted <= flags), "none")


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
    if not section.ok:
        unknown["cpu"] = section.failure
    described = dict(re.findall(r"^([A-Za-z][A-Za-z ]*?)[ \t]*:[ \t]*(.*?)[ \t]*$", section.text, re.MULTILINE))
    flags = frozenset((described.get("flags") or described.get("Features") or "").split())
    if section.ok and not flags:
        unknown["cpu.flags"] = "the kernel lists none in /proc/cpuinfo"
    packages = {
        number for path, number in section.by_file() if path.endswith("physical_package_id") and number.isdecimal()
    }
    return Cpu(
        model=described.get("model name") or _arm_name(described),
        flags=tuple(sorted(flags)),
        isa=isa_level(flags),
        logical=count_range(section.value("online") or ""),
        sockets=len(packages) or None,
        numa_nodes=len(section.values("node")) or None,
    )


def _arm_name(described: dict[str, str]) -> str | None:
    # The kernel names Arm cores by number only.
    maker, part = described.get("CPU implementer"), described.get("CPU part")
    return f"Arm implementer {maker} part {part}" if maker and part else None

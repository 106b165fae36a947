"""The instructions that a CPU has, as the kernel lists them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from verify.tables import table


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first CPU in /proc/cpuinfo; empty if it lists none (not x86)."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


@cache
def own_flags() -> frozenset[str]:
    """Return the flags of this CPU."""
    return cpu_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8"))


def largest_int8_weight() -> int | None:
    """Return the largest 8-bit weight with which oneDNN's products are exact on this CPU; None where all are."""
    row, flags = table("cpu")["int8_products"], own_flags()
    return None if not flags or flags.intersection(row["exact_with"]) else int(row["largest_weight"])

"""CPUs of this host: their instructions, the NUMA nodes with their memory, and binding of this process to one node."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from verify.files import read_number
from verify.host.views.pci import DEVICES
from verify.tables import table

NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True)
class Node:
    """One node: its CPUs by number, its memory in bytes."""

    number: int
    cpus: frozenset[int]
    memory: int


def nodes(folder: Path = NODES) -> tuple[Node, ...]:
    """Return the nodes by number; none if the kernel knows none (a container may hide them)."""
    found = []
    for path in folder.glob("node[0-9]*"):
        if (path / "cpulist").exists():
            memory = re.search(r"MemTotal:\s+(\d+) kB", (path / "meminfo").read_text())
            # A CPU list is such as `0-3,8`.
            ends = [part.split("-") for part in (path / "cpulist").read_text().strip().split(",") if part]
            cpus = frozenset(number for part in ends for number in range(int(part[0]), int(part[-1]) + 1))
            found.append(Node(int(path.name.removeprefix("node")), cpus, int(memory[1]) << 10 if memory else 0))
    return tuple(sorted(found, key=lambda node: node.number))


def near(address: str, devices: Path = DEVICES) -> int | None:
    """Return the node of a card by PCI address; None if the kernel names none (-1: a host with a single node)."""
    number = read_number(devices / address / "numa_node")
    return None if number is None or number < 0 else number


def bind(address: str | None) -> dict[str, Any]:
    """Bind this process to the CPUs of a card's NUMA node, and so to its memory: Linux allocates on the node that asks.

    Returns evidence: `NUMA node`, None if the kernel names none, and what was `bound`, or why nothing was.
    """
    number = near(address) if address else None
    node = next((one for one in nodes() if one.number == number), None)
    if node is None:
        return {"NUMA node": None, "bound": "the kernel names no node of this GPU"}
    allowed = node.cpus & os.sched_getaffinity(0)
    if not allowed:
        return {"NUMA node": number, "bound": "this process may use none of its CPUs"}
    os.sched_setaffinity(0, allowed)
    return {"NUMA node": number, "bound": f"{len(allowed)} CPUs"}


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

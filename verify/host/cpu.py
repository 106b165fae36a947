"""CPUs of this host: their instructions, the NUMA nodes, and binding of this process to one node."""

import os
from pathlib import Path
from typing import Any

from verify.files import read_number
from verify.host.views.pci import DEVICES
from verify.tables import table

NODES = Path("/sys/devices/system/node")


def nodes(folder: Path = NODES) -> dict[int, frozenset[int]]:
    """Return the CPUs of each node by number; none if the kernel knows none (a container may hide them)."""
    found = {}
    for path in folder.glob("node[0-9]*/cpulist"):
        ends = [part.split("-") for part in path.read_text().strip().split(",") if part]  # such as `0-3,8`
        cpus = (number for part in ends for number in range(int(part[0]), int(part[-1]) + 1))
        found[int(path.parent.name.removeprefix("node"))] = frozenset(cpus)
    return found


def near(address: str, devices: Path = DEVICES) -> int | None:
    """Return the node of a card by PCI address; None if the kernel names none (-1: a host with a single node)."""
    number = read_number(devices / address / "numa_node")
    return None if number is None or number < 0 else number


def bind(address: str | None) -> dict[str, Any]:
    """Bind this process to the CPUs of a card's NUMA node, and so to its memory: Linux allocates on the node that asks.

    Returns evidence: `NUMA node`, None if the kernel names none, and what was `bound`, or why nothing was.
    """
    number = near(address) if address else None
    cpus = None if number is None else nodes().get(number)
    if cpus is None:
        return {"NUMA node": None, "bound": "the kernel names no node of this GPU"}
    allowed = cpus & os.sched_getaffinity(0)
    if not allowed:
        return {"NUMA node": number, "bound": "this process may use none of its CPUs"}
    os.sched_setaffinity(0, allowed)
    return {"NUMA node": number, "bound": f"{len(allowed)} CPUs"}


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags of the first CPU in /proc/cpuinfo; empty if it lists none (not x86)."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def largest_int8_weight() -> int | None:
    """Return the largest 8-bit weight with which oneDNN's products are exact on this CPU; None where all are."""
    row, flags = table("cpu")["int8_products"], cpu_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return None if not flags or flags.intersection(row["exact_with"]) else int(row["largest_weight"])

"""NUMA nodes of the host: their CPUs and memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from verify.host.views.pci import DEVICES

NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True)
class Node:
    """One node: its CPUs by number, its memory in bytes."""

    number: int
    cpus: frozenset[int]
    memory: int


def nodes(folder: Path = NODES) -> tuple[Node, ...]:
    """Return the nodes by number; none if the kernel knows none (a container may hide them)."""
    found = [_node(path) for path in folder.glob("node[0-9]*") if (path / "cpulist").exists()]
    return tuple(sorted(found, key=lambda node: node.number))


def near(address: str, devices: Path = DEVICES) -> int | None:
    """Return the node of a card by PCI address; None if the kernel names none (-1: a host with a single node)."""
    try:
        number = int((devices / address / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return number if number >= 0 else None


def _node(folder: Path) -> Node:
    memory = re.search(r"MemTotal:\s+(\d+) kB", (folder / "meminfo").read_text())
    return Node(
        number=int(folder.name.removeprefix("node")),
        cpus=cpu_list((folder / "cpulist").read_text()),
        memory=int(memory[1]) << 10 if memory else 0,
    )


def cpu_list(text: str) -> frozenset[int]:
    """Parse a CPU list such as `0-3,8`."""
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return frozenset(number for part in ends for number in range(int(part[0]), int(part[-1]) + 1))

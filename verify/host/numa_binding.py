"""Binding of this process to the CPUs and memory of a card's NUMA node."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from verify.host.views.numa import near, nodes

SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""System call number (Linux, asm/unistd_64.h and asm-generic/unistd.h): libc has no wrapper for it."""
MPOL_PREFERRED = 1
"""linux/mempolicy.h: pages come from the node while it has free ones."""
MASK_BITS = 1024


def bind(address: str | None) -> dict[str, Any]:
    """Bind this process to the NUMA node of a card.

    Args:
        address: PCI address, as `0000:1b:00.0`.

    Returns:
        Evidence: `NUMA node` is None if the kernel names none; `bound` is what was bound, or why nothing was.
    """
    number = near(address) if address else None
    node = next((one for one in nodes() if one.number == number), None)
    if node is None:
        return {"NUMA node": None, "bound": "the kernel names no node of this GPU"}
    allowed = node.cpus & os.sched_getaffinity(0)
    if not allowed:
        return {"NUMA node": number, "bound": "this process may use none of its CPUs"}
    os.sched_setaffinity(0, allowed)
    return {
        "NUMA node": number,
        "bound": f"{len(allowed)} CPUs" + (" and memory" if _prefer_memory(node.number) else ""),
    }


def _prefer_memory(number: int) -> bool:
    """Prefer the memory of a node from now on; return False where a container forbids it."""
    call = SET_MEMPOLICY.get(platform.machine())
    size = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (MASK_BITS // size))()
    mask[number // size] = 1 << number % size
    return call is not None and ctypes.CDLL(None).syscall(call, MPOL_PREFERRED, mask, MASK_BITS) == 0

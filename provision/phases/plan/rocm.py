"""The AMD components that a host lacks for a Stack: the kernel driver, and ROCm."""

from __future__ import annotations

from provision.catalog import catalog
from provision.core.models.facts import HostFacts
from provision.core.models.stack import Stack
from provision.phases.plan.cards import amd_cards, nvidia_cards

DRIVER = "amdgpu"
USERSPACE = "rocm"


def lacking(stack: Stack, facts: HostFacts) -> tuple[str, ...]:
    """Return the catalog's components to install; none in a container or under WSL, where the underlying machine has them."""
    if facts.container or facts.wsl or not amd_cards(facts) or nvidia_cards(facts):
        return ()
    parts = [] if DRIVER in facts.kernel_modules else [DRIVER]
    uses_system_rocm = stack.vllm is not None and any(row.variant == stack.vllm.variant for row in catalog().userspaces)
    if uses_system_rocm and facts.amd is not None and facts.amd.rocm_version is None:
        parts.append(USERSPACE)
    return tuple(parts)

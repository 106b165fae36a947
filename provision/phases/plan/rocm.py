"""What of AMD's a host lacks for a Stack: the kernel driver, and ROCm itself."""

from __future__ import annotations

from provision.catalog import catalog
from provision.core.models.facts import HostFacts
from provision.core.models.stack import Stack
from provision.phases.plan.cards import amd_cards, nvidia_cards

DRIVER = "amdgpu"
USERSPACE = "rocm"


def lacking(stack: Stack, facts: HostFacts) -> tuple[str, ...]:
    """Components of the catalog that are to be brought; none in a container or under WSL, where they are the machine's below."""
    if facts.container or facts.wsl or not amd_cards(facts) or nvidia_cards(facts):
        return ()
    parts = [] if DRIVER in facts.kernel_modules else [DRIVER]
    takes_systems = stack.vllm is not None and any(row.variant == stack.vllm.variant for row in catalog().userspaces)
    if takes_systems and facts.amd is not None and facts.amd.rocm_version is None:
        parts.append(USERSPACE)
    return tuple(parts)

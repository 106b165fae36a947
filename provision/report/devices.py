"""Devices of a host, one line a kind."""

from __future__ import annotations

from collections import Counter

from provision.core.formatting import format_bytes
from provision.core.models.facts import HostFacts

_VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}


def describe_devices(facts: HostFacts) -> tuple[str, ...]:
    """Describe cards by kind with number, memory and driver, then the CPU; cards without a driver by PCI id."""
    lines: list[str] = []
    nvidia, amd = facts.nvidia, facts.amd
    if nvidia and nvidia.gpus:
        kinds = Counter((gpu.name or "NVIDIA card", gpu.memory_total, gpu.compute_capability) for gpu in nvidia.gpus)
        for (name, memory, capability), cards in kinds.items():
            parts = [
                f"{cards} x {name}",
                format_bytes(memory) if memory else "",
                f"sm {capability}" if capability else "",
            ]
            parts.append(f"driver {nvidia.driver_version}" if nvidia.driver_version else "")
            lines.append(", ".join(part for part in parts if part))
    if amd and amd.gpus:
        models = Counter((gpu.name or "AMD card", gpu.memory_total, gpu.gfx) for gpu in amd.gpus)
        for (name, memory, gfx), cards in models.items():
            parts = [f"{cards} x {name}", format_bytes(memory) if memory else "", gfx or ""]
            parts.append(f"driver {amd.driver_version}" if amd.driver_version else "")
            lines.append(", ".join(part for part in parts if part))
    if not lines:
        unseen = Counter((_VENDORS.get(card.vendor_id, card.vendor_id), card.device_id) for card in facts.pci_gpus)
        lines += [f"{cards} x {vendor} {device} (PCI; no driver sees it)" for (vendor, device), cards in unseen.items()]
    cpu = ", ".join(
        part
        for part in (
            facts.cpu.model or "CPU of unknown model",
            f"{facts.cpu.logical} threads" if facts.cpu.logical else "",
            facts.cpu.isa if facts.cpu.isa not in (None, "none") else "",
            f"{format_bytes(facts.memory.total)} memory" if facts.memory.total else "",
        )
        if part
    )
    return (*lines, cpu)

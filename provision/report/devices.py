"""Devices of a host, one line a kind."""

from __future__ import annotations

from collections import Counter

from provision.core.formatting import format_bytes
from provision.core.models.facts import HostFacts

_VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}


def describe_devices(facts: HostFacts) -> tuple[str, ...]:
    """Describe cards by kind with number, memory and driver, then the CPU; cards without a driver by PCI id."""
    kinds: list[tuple[str | None, list[tuple[str, int | None, str | None]]]] = []
    if facts.nvidia:
        named = [
            (gpu.name or "NVIDIA GPU", gpu.memory_total, gpu.compute_capability and f"sm {gpu.compute_capability}")
            for gpu in facts.nvidia.gpus
        ]
        kinds.append((_driver(facts.nvidia.driver_version, "CUDA", facts.nvidia.cuda_version), named))
    if facts.amd:
        named = [(gpu.name or "AMD GPU", gpu.memory_total, gpu.gfx) for gpu in facts.amd.gpus]
        kinds.append((_driver(facts.amd.driver_version, "ROCm", facts.amd.rocm_version), named))
    lines = [
        _listed(f"{cards} x {name}", memory and format_bytes(memory), code, driver)
        for driver, named in kinds
        for (name, memory, code), cards in Counter(named).items()
    ]
    if not lines:
        unseen = Counter((_VENDORS.get(card.vendor_id, card.vendor_id), card.device_id) for card in facts.pci_gpus)
        lines += [f"{cards} x {vendor} {device} (PCI; no driver sees it)" for (vendor, device), cards in unseen.items()]
    cpu = _listed(
        facts.cpu.model or "CPU of unknown model",
        facts.cpu.logical and f"{facts.cpu.logical} threads",
        facts.cpu.isa if facts.cpu.isa != "none" else None,
        facts.memory.total and f"{format_bytes(facts.memory.total)} memory",
    )
    return (*lines, cpu)


def _driver(version: str | None, platform: str, release: str | None) -> str | None:
    """Return the driver, with the release of CUDA that it supports or of ROCm that it belongs to."""
    return version and f"driver {version}" + (f" ({platform} {release})" if release else "")


def _listed(*parts: str | int | None) -> str:
    return ", ".join(str(part) for part in parts if part)

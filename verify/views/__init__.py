"""How each layer sees the GPUs of this host: the PCI bus, the kernel driver, NVML, torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU as one layer sees it; null where that layer does not say. `memory` is bytes."""

    pci: str | None = None
    uuid: str | None = None
    name: str | None = None
    memory: int | None = None


def pci_address(text: str) -> str:
    """`0000:1b:00.0` from any of the spellings that NVML, the driver and the kernel use.

    NVML writes the domain with eight digits and letters large.
    """
    domain, _, rest = text.strip().lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"

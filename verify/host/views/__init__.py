"""The GPUs of this host as each layer reports them: PCI bus, kernel driver, NVML, torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU as a layer reports it; None for unknown values. `memory` is in bytes."""

    pci: str | None = None
    uuid: str | None = None
    name: str | None = None
    memory: int | None = None


def pci_address(text: str) -> str:
    """Normalize a PCI address to `0000:1b:00.0`.

    NVML writes the domain with eight digits and capital letters.
    """
    domain, _, rest = text.strip().lower().partition(":")
    return f"{int(domain, 16):04x}:{rest}"

"""The cards of a host, by their names in the catalog."""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from provision.catalog import catalog
from provision.catalog.rows.hardware import AmdCard as AmdRow
from provision.catalog.rows.hardware import NvidiaCard as NvidiaRow
from provision.catalog.versions import newest_first, numbers
from provision.core.formatting import GIB
from provision.core.models.facts import HostFacts, NvidiaGpu, PciGpu
from provision.phases.plan.gpu_code import Coverage, coverage

NVIDIA = "10de"
AMD = "1002"
SEVERAL = 2
VGPU = "VGPU"
"""The virtualization mode that nvidia-smi reports in a guest."""

_DECORATION = {"nvidia", "amd", "geforce", "tesla", "quadro", "instinct", "radeon", "generation", "blackwell"}
_DECORATION |= {"edition", "server", "workstation", "hbm3", "hbm3e", "oam", "accelerator"}


@dataclass(frozen=True)
class Card:
    """An NVIDIA card. `name` is the catalog's, else the host's."""

    index: int
    name: str
    compute_capability: str | None
    memory_gib: int | None = None
    row: NvidiaRow | None = field(default=None, compare=False)
    mig: bool = False
    slices: int = 0
    """MIG devices on the card."""
    virtual: bool = False
    """Whether the card is a vGPU, whose driver must match the hypervisor."""
    persistent: bool | None = None

    @property
    def kind(self) -> tuple[str, str | None, int | None, bool]:
        """Return the fields that are equal for cards of one kind."""
        return (self.name, self.compute_capability, self.memory_gib, self.mig)

    def worth(self, count: int) -> tuple[Any, ...]:
        """Return the rank of a kind of `count` cards.

        By code in the newest release, memory in total, MIG off, number of cards, compute capability, memory of a card.
        """
        capability, memory = self.compute_capability, self.memory_gib or 0
        runs = capability is None or coverage(_newest_codes(), capability) is not Coverage.NONE
        return (runs, count * memory, not self.mig, count, numbers(capability or "0"), memory, self.name)


@dataclass(frozen=True)
class AmdCard:
    """An AMD card, as `Card`."""

    index: int
    name: str
    gfx: str | None
    memory_gib: int | None = None

    @property
    def kind(self) -> tuple[str, str | None, int | None]:
        """Return the fields that are equal for cards of one kind."""
        return (self.name, self.gfx, self.memory_gib)

    def worth(self, count: int) -> tuple[Any, ...]:
        """Return the rank of a kind of `count` cards; integrated graphics rank last."""
        memory = self.memory_gib or 0
        return (not self.integrated, self.gfx in _newest_gfx(), count * memory, count, memory, self.name)

    @property
    def integrated(self) -> bool:
        """Return whether it is integrated graphics."""
        return any(self.gfx in row.gfx for row in catalog().integrated_graphics)


AnyCard = TypeVar("AnyCard", Card, AmdCard)


def plain_name(text: str) -> str:
    """Return a marketing name without vendor, brand, memory size, form factor and blanks: `NVIDIA A100-SXM4-80GB` gives `a100`."""
    words = [word for word in re.split(r"[\s\-_]+", text.strip().lower()) if word and word not in _DECORATION]
    words = [word for word in words if not re.fullmatch(r"\d+gb?|sxm\d?", word) or word == words[0]]
    return re.sub(r"sxm\d?$", "", "".join(words))


@cache
def nvidia_by_name(name: str) -> NvidiaRow | None:
    """Return the catalog's row for the marketing name of a card, or of a machine with one such card; None if there is none."""
    rows = {plain_name(known): row for row in catalog().nvidia_cards for known in (row.name, *row.machines)}
    return rows.get(plain_name(name))


@cache
def nvidia_by_id(device_id: str) -> NvidiaRow | None:
    """Return the catalog's row for a PCI device id."""
    return {identity: row for row in catalog().nvidia_cards for identity in row.ids}.get(device_id.lower())


@cache
def amd_by_name(name: str) -> AmdRow | None:
    return {plain_name(row.name): row for row in catalog().amd_cards}.get(plain_name(name))


@cache
def amd_by_id(device_id: str) -> AmdRow | None:
    return {identity: row for row in catalog().amd_cards for identity in row.ids}.get(device_id.lower())


def nvidia_cards(facts: HostFacts) -> tuple[Card, ...]:
    """Return the NVIDIA cards: as the driver names them, else by their PCI ids."""
    if facts.nvidia is not None and facts.nvidia.gpus:
        return tuple(_from_driver(gpu) for gpu in facts.nvidia.gpus)
    found = [gpu for gpu in facts.pci_gpus if gpu.vendor_id.lower() == NVIDIA]
    return tuple(_from_pci(index, gpu) for index, gpu in enumerate(found))


def _from_driver(gpu: NvidiaGpu) -> Card:
    row = nvidia_by_name(gpu.name) if gpu.name else None
    memory = gpu.memory_total // GIB if gpu.memory_total is not None else (row.memory_gib if row else None)
    return Card(
        index=gpu.index,
        name=row.name if row else gpu.name or "unnamed NVIDIA GPU",
        compute_capability=gpu.compute_capability or (row.compute_capability if row else None),
        memory_gib=memory,
        row=row,
        mig=gpu.mig_mode == "enabled",
        slices=gpu.mig_devices,
        virtual=(gpu.virtualization or "").upper() == VGPU,
        persistent=gpu.persistence,
    )


def _from_pci(index: int, gpu: PciGpu) -> Card:
    row = nvidia_by_id(gpu.device_id)
    if row is None:
        return Card(index=index, name=f"NVIDIA GPU {gpu.device_id}", compute_capability=None)
    return Card(index, row.name, row.compute_capability, row.memory_gib, row)


def amd_cards(facts: HostFacts) -> tuple[AmdCard, ...]:
    """Return the AMD cards: as ROCm names them, else by the PCI ids in the catalog, which exclude integrated graphics."""
    if facts.amd is not None and facts.amd.gpus:
        return tuple(
            AmdCard(
                gpu.index,
                gpu.name or "unnamed AMD GPU",
                gpu.gfx or _gfx_of(gpu.name),
                gpu.memory_total // GIB if gpu.memory_total is not None else None,
            )
            for gpu in facts.amd.gpus
        )
    rows = [amd_by_id(gpu.device_id) for gpu in facts.pci_gpus if gpu.vendor_id.lower() == AMD]
    return tuple(AmdCard(index, row.name, row.gfx) for index, row in enumerate(row for row in rows if row))


def _gfx_of(name: str | None) -> str | None:
    row = amd_by_name(name) if name else None
    return row.gfx if row else None


def serving(cards: tuple[AnyCard, ...]) -> tuple[AnyCard, ...]:
    """Return the cards that serve if the settings name none: those of the best kind."""
    count = Counter(card.kind for card in cards)
    if len(count) < SEVERAL:
        return cards
    best = max(cards, key=lambda card: card.worth(count[card.kind]))
    return tuple(card for card in cards if card.kind == best.kind)


@cache
def _newest_codes() -> tuple[str, ...]:
    """Return the GPU code of the newest release's main extension."""
    return newest_first(catalog().releases)[0].core


@cache
def _newest_gfx() -> tuple[str, ...]:
    """Return the AMD architectures of the newest build for ROCm."""
    return newest_first(row for row in catalog().builds if row.gfx)[0].gfx

"""AMD facts of a host: cards from several tools, merged by PCI address."""

from __future__ import annotations

from provision.core.models.facts import Amd, AmdGpu
from provision.phases.probe.parsers import rocm
from provision.phases.probe.parsers.pci import AMD, Bus
from provision.phases.probe.parsers.values import known
from provision.phases.probe.sections import Output


def merge(*views: tuple[rocm.Card, ...]) -> tuple[rocm.Card, ...]:
    """Merge views into one entry per card, in the order of the first view that has cards; earlier values win."""
    merged: list[rocm.Card] = []
    for view in views:
        if not merged:
            merged = list(view)
            continue
        # Match views without addresses by position when they show the same number of cards.
        by_place = len(view) == len(merged) and all(card.pci_address is None for card in view)
        for place, card in enumerate(view):
            at = place if by_place else _place(merged, card)
            if at is not None:
                merged[at] = _joined(merged[at], card)
    return tuple(merged)


def amd(output: Output, bus: Bus, unknown: dict[str, str]) -> Amd | None:
    """Return the AMD facts; None for a host without AMD accelerators."""
    kfd, agents, smi = output["kfd"], output["rocminfo_agents"], output["amd_smi"]
    answer = rocm.amd_smi(smi)
    cards = merge(rocm.topology(kfd), rocm.agents(agents), answer.cards)
    version = rocm.rocm_version(output["rocm"])
    if not (bus.of(AMD) or cards or version):
        return None
    for name, section in (("rocminfo", agents), ("amd-smi", smi)):
        if not section.ok and not section.absent:
            unknown[f"amd.{name}"] = section.failure
    if not cards:
        unknown["amd.gpus"] = (
            "; ".join(section.failure for section in (kfd, agents, smi) if not section.ok) or "no tool shows a GPU"
        )
    return Amd(
        driver_version=known(output["modules"].value("amdgpu_version")) or answer.driver_version,
        rocm_version=version,
        gpus=tuple(
            AmdGpu(
                index=index,
                name=card.name,
                gfx=card.gfx,
                uuid=card.uuid,
                pci_address=card.pci_address,
                memory_total=card.memory_total,
            )
            for index, card in enumerate(cards)
        ),
    )


def _place(cards: list[rocm.Card], card: rocm.Card) -> int | None:
    return next(
        (at for at, other in enumerate(cards) if card.pci_address and other.pci_address == card.pci_address), None
    )


def _joined(first: rocm.Card, second: rocm.Card) -> rocm.Card:
    return rocm.Card(
        pci_address=first.pci_address or second.pci_address,
        name=first.name or second.name,
        gfx=first.gfx or second.gfx,
        uuid=first.uuid or second.uuid,
        memory_total=first.memory_total or second.memory_total,
    )

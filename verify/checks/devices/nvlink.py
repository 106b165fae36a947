"""devices.nvlink: the links between the GPUs are up."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from verify.card_health import Observation, check_nvidia_cards, combine
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.tables import table
from verify.views.nvml_health import Health

REMEDY = (
    "the kernel log names the reason (devices.xid); reset the card, then reseat it or its bridge: nvidia-smi nvlink -e"
)


SEVERE = ("recovery", "replay")
"""What DCGM's health watch of NVLinks counts from the first one on."""


def _run(context: CheckContext) -> CheckResult:
    return check_nvidia_cards(
        context, lambda card: replace(card, name="NVIDIA H200", links=(True,) * 17 + (False,)), evaluate
    )


def evaluate(cards: Sequence[Health]) -> CheckResult:
    """Held against the card's type where all its links are wired, and against like cards of the host.

    A card alone needs none: those of a virtual machine with one card of an NVSwitch system are off.
    """
    linked = [card for card in cards if any(card.links)]
    if not linked and (len(cards) == 1 or not any(_wired(card) for card in cards)):
        return CheckResult("skip", f"no NVLink between {'these' if len(cards) > 1 else 'this and other'} cards")
    up = {card.pci: sum(card.links) for card in cards}
    figures = tuple(Figure(f"links up: {card.pci}", up[card.pci], "count", floor=_wired(card)) for card in cards)
    evidence = {
        card.pci: {"name": card.name, "links": list(card.links), "errors": dict(card.link_errors)} for card in cards
    }
    said = [*_too_few(cards, up), *_odd(cards, up), *_errors(cards)]
    return combine(said, f"{sum(up.values())} NVLinks of {len(linked)} cards are up", figures, evidence)


def _wired(card: Health) -> int | None:
    """How many links a card of this type has on its board, null where that is a matter of bridges."""
    rows = table("devices")["nvlink"]
    return next((row["links"] for row in rows if re.search(row["match"], card.name)), None)


def _too_few(cards: Sequence[Health], up: dict[str, int]) -> Iterator[Observation]:
    for card in cards:
        wired = _wired(card)
        if wired and up[card.pci] < wired:
            yield Observation("fail", f"{card.pci}: {up[card.pci]} of {wired} NVLinks are up{_down(card)}", REMEDY)


def _odd(cards: Sequence[Health], up: dict[str, int]) -> Iterator[Observation]:
    """Cards of a type without a row: fewer links than a like one of the same host."""
    alike = defaultdict(list)
    for card in cards:
        if not _wired(card):
            alike[card.name].append(card)
    for group in alike.values():
        most = max(up[card.pci] for card in group)
        for card in group:
            if up[card.pci] < most:
                text = f"{card.pci}: {up[card.pci]} NVLinks are up, and {most} on a like card"
                yield Observation("warn", f"{text}{_down(card)}", REMEDY)


def _errors(cards: Sequence[Health]) -> Iterator[Observation]:
    """Packets sent again and links trained again. Errors that the checksum alone saw come with every long link: they are evidence."""
    for card in cards:
        told_of = [f"{card.link_errors[kind]} {kind}" for kind in SEVERE if card.link_errors.get(kind)]
        if told_of:
            yield Observation(
                "warn", f"{card.pci}: NVLink errors since the driver was loaded: {', '.join(told_of)}", REMEDY
            )


def _down(card: Health) -> str:
    down = [str(number) for number, is_up in enumerate(card.links) if not is_up]
    return f" (down: {', '.join(down)})" if down and any(card.links) else ""


CHECK = Check(
    id="devices.nvlink",
    description="Every NVLink that a card of its type has on its board is up, and none had to recover; cards with bridges have as many up as the like ones.",
    run=_run,
    requires=("devices.driver",),
    faults=("sick-gpu",),
)

"""devices.nvlink: NVLinks between the GPUs."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from verify.host.card_health import Observation, combine, nvidia_check
from verify.host.views.nvml import Health
from verify.records import CheckResult, Figure
from verify.tables import table

REMEDY = (
    "the kernel log shows the reason (devices.xid); reset the GPU, then reseat it or its bridge: nvidia-smi nvlink -e"
)


SEVERE = ("recovery", "replay")
"""Counters that DCGM's NVLink health watch evaluates from the first error on."""


def evaluate(cards: Sequence[Health]) -> CheckResult:
    """Compare with the card's type if all its links are wired, and with equal cards of the host.

    A single card needs no links: in a virtual machine with one card of an NVSwitch system they are off.
    """
    linked = [card for card in cards if any(card.links)]
    if not linked and (len(cards) == 1 or not any(_wired(card) for card in cards)):
        return CheckResult("skip", f"no NVLink between {'these' if len(cards) > 1 else 'this and other'} GPUs")
    up = {card.pci: sum(card.links) for card in cards}
    figures = tuple(Figure(f"links up: {card.pci}", up[card.pci], "count", floor=_wired(card)) for card in cards)
    evidence = {
        card.pci: {"name": card.name, "links": list(card.links), "errors": dict(card.link_errors)} for card in cards
    }
    observations = [*_too_few(cards, up), *_odd(cards, up), *_errors(cards)]
    return combine(observations, f"{sum(up.values())} NVLinks of {len(linked)} GPUs are up", figures, evidence)


def _wired(card: Health) -> int | None:
    """Return the number of links on a board of this type; None if it depends on bridges."""
    rows = table("devices")["nvlink"]
    return next((row["links"] for row in rows if re.search(row["match"], card.name)), None)


def _too_few(cards: Sequence[Health], up: dict[str, int]) -> Iterator[Observation]:
    for card in cards:
        wired = _wired(card)
        if wired and up[card.pci] < wired:
            yield Observation("fail", f"{card.pci}: {up[card.pci]} of {wired} NVLinks are up{_down(card)}", REMEDY)


def _odd(cards: Sequence[Health], up: dict[str, int]) -> Iterator[Observation]:
    """Report cards of an unknown type that have fewer links than an equal card of the host."""
    alike = defaultdict(list)
    for card in cards:
        if not _wired(card):
            alike[card.name].append(card)
    for group in alike.values():
        most = max(up[card.pci] for card in group)
        for card in group:
            if up[card.pci] < most:
                text = f"{card.pci}: {up[card.pci]} NVLinks are up, and {most} on an equal GPU"
                yield Observation("warn", f"{text}{_down(card)}", REMEDY)


def _errors(cards: Sequence[Health]) -> Iterator[Observation]:
    """Report replayed packets and retrained links. Errors that only the checksum found occur on every long link; they are evidence."""
    for card in cards:
        told_of = [f"{card.link_errors[kind]} {kind}" for kind in SEVERE if card.link_errors.get(kind)]
        if told_of:
            yield Observation(
                "warn", f"{card.pci}: NVLink errors since the driver was loaded: {', '.join(told_of)}", REMEDY
            )


def _down(card: Health) -> str:
    down = [str(number) for number, is_up in enumerate(card.links) if not is_up]
    return f" (down: {', '.join(down)})" if down and any(card.links) else ""


run = nvidia_check(evaluate, name="NVIDIA H200", links=(True,) * 17 + (False,))

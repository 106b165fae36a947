"""devices.clocks: heat, power and power caps of NVIDIA GPUs."""

from collections.abc import Iterator, Sequence
from typing import Any

from verify.host.card_health import Observation, combine, nvidia_check
from verify.host.views.nvml import Health
from verify.records import CheckResult, Figure
from verify.tables import table


def evaluate(cards: Sequence[Health]) -> CheckResult:
    """Evaluate the current reasons: heat and power limits persist without load; the speed checks cover the effect of load."""
    if all(card.clock_reasons is None and card.power_limit_w is None for card in cards):
        return CheckResult("error", "cannot tell: the driver reports neither clock reasons nor power limits")
    named = {card.pci: [row["name"] for row in _rows(card)] for card in cards}
    figures = tuple(
        Figure(f"power limit: {card.pci}", card.power_limit_w, "W", floor=card.power_default_w, source="its default")
        for card in cards
        if card.power_limit_w is not None
    )
    observations = [entry for card in cards for entry in _of_card(card)]
    seen = sorted({name for names in named.values() for name in names})
    healthy = f"nothing slows a GPU down ({len(cards)} checked; current clock limits: {', '.join(seen) or 'none'})"
    evidence = {"reasons": named, "source": table("devices")["clock_reasons"]["source"]}
    return combine(observations, healthy, figures, evidence)


def _rows(card: Health) -> list[dict[str, Any]]:
    return [row for row in table("devices")["clock_reason"] if (card.clock_reasons or 0) & row["bit"]]


def _of_card(card: Health) -> Iterator[Observation]:
    for row in _rows(card):
        if row["status"] in ("fail", "warn"):
            yield Observation(row["status"], f"{card.pci} is slowed down: {row['name']}", row["remedy"])
    limit, usual = card.power_limit_w, card.power_default_w
    if limit is not None and usual is not None and limit < usual:
        text = f"{card.pci} is limited to {limit:.0f} W, the default is {usual:.0f} W"
        yield Observation("warn", text, f"nvidia-smi -i {card.pci} --power-limit={usual:.0f}")


run = nvidia_check(evaluate, clock_reasons=0x48)

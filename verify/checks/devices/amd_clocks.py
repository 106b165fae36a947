"""devices.amd_clocks: heat or power limits of AMD GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from verify.host.card_health import Observation, check_amd_cards, combine
from verify.host.views import amd_smi
from verify.host.views.amd_smi import Limits
from verify.records import CheckContext, CheckResult
from verify.tables import table


def run(context: CheckContext) -> CheckResult:
    return check_amd_cards(context, amd_smi.limits, evaluate, [Limits(0, {"prochot": True, "hbm_thermal": False})])


def evaluate(cards: Sequence[Limits]) -> CheckResult:
    """Only current reasons are evaluated. Reasons without a row (clocks below a limit that the host set, little work) are evidence."""
    telling = [card for card in cards if card.active]
    if not telling:
        return CheckResult("skip", "these GPUs do not report what slows them down")
    rule = table("devices")["amd_limits"]
    evidence = {
        "command": " ".join(amd_smi.METRICS),
        "cards": [asdict(card) for card in cards],
        "source": rule["source"],
    }
    observations = [entry for card in telling for entry in _of_card(card)]
    return combine(observations, f"nothing slows an AMD GPU down ({len(telling)} checked)", (), evidence)


def _of_card(card: Limits) -> Iterator[Observation]:
    for row in table("devices")["amd_limit"]:
        if card.active.get(row["reason"]):
            yield Observation(row["status"], f"GPU {card.gpu} is slowed down: {row['name']}", row.get("remedy"))

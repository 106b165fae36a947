"""devices.amd_clocks: heat or power limits of AMD GPUs."""

from collections.abc import Iterator, Sequence

from verify.host.card_health import Observation, amd_check, combine
from verify.host.views import amd_smi
from verify.host.views.amd_smi import Metrics
from verify.records import CheckResult
from verify.tables import table


def evaluate(cards: Sequence[Metrics]) -> CheckResult:
    """Only current reasons are evaluated. Reasons without a row (clocks below a limit that the host set, little work) are evidence."""
    telling = [card for card in cards if card.throttling]
    if not telling:
        return CheckResult("skip", "these GPUs do not report what slows them down")
    rule = table("devices")["amd_limits"]
    evidence = {
        "command": " ".join(amd_smi.METRICS.command),
        "cards": [{"gpu": card.gpu, "active": card.throttling} for card in cards],
        "source": rule["source"],
    }
    observations = [entry for card in telling for entry in _of_card(card)]
    return combine(observations, f"nothing slows an AMD GPU down ({len(telling)} checked)", (), evidence)


def _of_card(card: Metrics) -> Iterator[Observation]:
    for row in table("devices")["amd_limit"]:
        if card.throttling.get(row["reason"]):
            yield Observation(row["status"], f"GPU {card.gpu} is slowed down: {row['name']}", row.get("remedy"))


run = amd_check(amd_smi.METRICS, evaluate, Metrics(0, {"prochot": True, "hbm_thermal": False}))

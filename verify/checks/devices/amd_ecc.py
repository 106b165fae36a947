"""devices.amd_ecc: the memory of the AMD GPUs has no errors that it could not mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from verify.card_health import Observation, check_amd_cards, combine
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.views import amd_smi
from verify.views.amd_smi import EccErrors

SOURCE = "rocm.docs.amd.com/projects/amdsmi, amdsmi_get_gpu_total_ecc_count; no uncorrected error is harmless"
RESET = (
    "stop what uses the card and reset it: amd-smi reset --gpureset --gpu {gpu}; if they come back, have it replaced"
)


def _run(context: CheckContext) -> CheckResult:
    return check_amd_cards(
        context, amd_smi.errors, evaluate, [EccErrors(gpu=0, corrected=0, uncorrected=1, deferred=0)]
    )


def evaluate(cards: Sequence[EccErrors]) -> CheckResult:
    """Errors that were corrected are no fault: that is what the memory's code is for."""
    counting = [card for card in cards if card.uncorrected is not None]
    if not counting:
        return CheckResult("skip", "these cards count no errors of their memory")
    total = sum(card.uncorrected or 0 for card in counting)
    figures = (Figure("uncorrected errors since the driver was loaded", total, "count", ceiling=0, source=SOURCE),)
    evidence = {"command": " ".join(amd_smi.ERRORS), "cards": [asdict(card) for card in cards]}
    said = [entry for card in counting for entry in _of_card(card)]
    return combine(said, f"no uncorrected error of {len(counting)} cards' memory", figures, evidence)


def _of_card(card: EccErrors) -> Iterator[Observation]:
    remedy = RESET.format(gpu=card.gpu)
    if card.uncorrected:
        yield Observation("fail", f"GPU {card.gpu}: {card.uncorrected} uncorrected errors of its memory", remedy)
    if card.deferred:
        yield Observation("warn", f"GPU {card.gpu}: {card.deferred} errors of its memory wait to be met", remedy)


CHECK = Check(
    id="devices.amd_ecc",
    description="No error of the AMD GPUs' memory went uncorrected since the driver was loaded.",
    run=_run,
    faults=("sick-gpu",),
)

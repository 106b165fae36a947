"""devices.amd_ecc: uncorrected memory errors of AMD GPUs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from verify.host.card_health import Observation, amd_check, combine
from verify.host.views import amd_smi
from verify.host.views.amd_smi import EccErrors
from verify.records import CheckResult, Figure

SOURCE = "rocm.docs.amd.com/projects/amdsmi, amdsmi_get_gpu_total_ecc_count; no uncorrected error is harmless"
RESET = "stop the processes that use the GPU and reset it: amd-smi reset --gpureset --gpu {gpu}; if the errors return, have it replaced"


def evaluate(cards: Sequence[EccErrors]) -> CheckResult:
    """Evaluate uncorrected errors only: correcting errors is what ECC is for."""
    counting = [card for card in cards if card.uncorrected is not None]
    if not counting:
        return CheckResult("skip", "these GPUs do not count memory errors")
    total = sum(card.uncorrected or 0 for card in counting)
    figures = (Figure("uncorrected errors since the driver was loaded", total, "count", ceiling=0, source=SOURCE),)
    evidence = {"command": " ".join(amd_smi.ERRORS.command), "cards": [asdict(card) for card in cards]}
    observations = [entry for card in counting for entry in _of_card(card)]
    return combine(observations, f"no uncorrected memory error on any GPU ({len(counting)} checked)", figures, evidence)


def _of_card(card: EccErrors) -> Iterator[Observation]:
    remedy = RESET.format(gpu=card.gpu)
    if card.uncorrected:
        yield Observation("fail", f"GPU {card.gpu}: {card.uncorrected} uncorrected memory errors", remedy)
    if card.deferred:
        yield Observation("warn", f"GPU {card.gpu}: {card.deferred} deferred memory errors", remedy)


run = amd_check(amd_smi.ERRORS, evaluate, EccErrors(gpu=0, corrected=0, uncorrected=1, deferred=0))

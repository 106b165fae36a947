"""devices.ecc: uncorrected memory errors and row remapping of NVIDIA GPUs."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from verify.host.card_health import Observation, combine, nvidia_check
from verify.host.views.nvml import Health
from verify.records import CheckResult, Figure
from verify.tables import table

RESET = "stop the processes that use the GPU and reset it: nvidia-smi --gpu-reset -i {pci}; or reboot"
REPLACE = "the GPU has no spare rows left: have it replaced"


def evaluate(cards: Sequence[Health]) -> CheckResult:
    """Evaluate uncorrected errors only: correcting errors is what ECC is for."""
    counted = [card for card in cards if card.uncorrected is not None]
    if not any(card.ecc is not None or card.remapped is not None for card in cards):
        return CheckResult("skip", "these GPUs have no error correction, or do not report it")
    limit = table("devices")["ecc"]
    since_load = sum(card.uncorrected[0] for card in counted if card.uncorrected)
    ever = sum(card.uncorrected[1] for card in counted if card.uncorrected)
    rows = [sum(card.remapped[kind] for card in cards if card.remapped) for kind in (0, 1)]
    figures = (
        Figure(
            "uncorrected errors since the driver was loaded",
            since_load,
            "count",
            ceiling=limit["uncorrected_since_load"],
            source=limit["source"],
        ),
        Figure("uncorrected errors ever", ever, "count"),
        Figure("rows remapped after corrected errors", rows[0], "count"),
        Figure("rows remapped after uncorrected errors", rows[1], "count"),
    )
    observations = [entry for card in cards for entry in _of_card(card, limit["uncorrected_since_load"])]
    healthy = f"no uncorrected memory error since the driver was loaded, {ever} before ({len(counted)} checked)"
    return combine(observations, healthy, figures, [asdict(card) for card in cards])


def _of_card(card: Health, limit: int) -> Iterator[Observation]:
    reset = RESET.format(pci=card.pci)
    if card.remap_failed:
        yield Observation("fail", f"{card.pci}: a memory row could not be remapped", REPLACE)
    if card.uncorrected and card.uncorrected[0] > limit:
        yield Observation(
            "fail", f"{card.pci}: {card.uncorrected[0]} uncorrected errors since the driver was loaded", reset
        )
    if card.remap_pending:
        yield Observation("warn", f"{card.pci}: a memory row is pending remapping", reset)
    if card.retirement_pending:
        yield Observation("warn", f"{card.pci}: a memory page is pending retirement", reset)
    if card.ecc and card.ecc[0] != card.ecc[1]:
        yield Observation(
            "warn", f"{card.pci}: ECC will be {'on' if card.ecc[1] else 'off'} after the next reset", reset
        )
    elif card.ecc == (False, False) and card.ecc_by_default:
        remedy = f"turn it on: nvidia-smi -i {card.pci} -e 1, then reboot"
        yield Observation("warn", f"{card.pci}: ECC is off, the default is on", remedy)


run = nvidia_check(evaluate, ecc=(True, True), uncorrected=(1, 1))

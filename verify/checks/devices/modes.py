"""devices.modes: compute mode, MIG mode and persistence of NVIDIA GPUs."""

from collections.abc import Iterator, Sequence

from verify.host.card_health import Observation, combine, nvidia_check
from verify.host.views.nvml import Health
from verify.records import CheckResult, Figure
from verify.tables import table

PROHIBITED = "prohibited"


def evaluate(cards: Sequence[Health]) -> CheckResult:
    """Report persistence mode without evaluating it: without it, first uses take seconds longer and volatile error counts are lost."""
    split = sum(1 for card in cards if card.mig and card.mig[0])
    figures = (Figure("GPUs split by MIG", split, "count"),)
    observations = [entry for card in cards for entry in _of_card(card)]
    lazy = [card.pci for card in cards if card.persistence is False]
    if lazy:
        text = f"persistence mode is off on {', '.join(lazy)}: each first use waits for the driver"
        observations.append(Observation("ok", text))
    evidence = {
        card.pci: {"compute mode": _mode(card), "MIG": card.mig, "persistence": card.persistence} for card in cards
    }
    return combine(observations, f"every GPU accepts any process ({len(cards)} checked)", figures, evidence)


def _mode(card: Health) -> str | None:
    names: list[str] = table("devices")["compute_mode"]["names"]
    return names[card.compute_mode] if card.compute_mode is not None and card.compute_mode < len(names) else None


def _of_card(card: Health) -> Iterator[Observation]:
    mode = _mode(card)
    remedy = f"nvidia-smi -i {card.pci} --compute-mode=DEFAULT"
    if mode == PROHIBITED:
        yield Observation("fail", f"{card.pci} is in compute mode {mode}: no process may compute on it", remedy)
    elif mode not in (None, "default"):
        yield Observation("warn", f"{card.pci} is in compute mode {mode}: one process at a time", remedy)
    if card.mig and card.mig[0] != card.mig[1]:
        text = f"{card.pci}: MIG will be {'on' if card.mig[1] else 'off'} after the next reset"
        yield Observation("warn", text, f"nvidia-smi --gpu-reset -i {card.pci}, or reboot")


run = nvidia_check(evaluate, compute_mode=2)

"""What checks of the cards' health have in common: which cards there are, and one outcome of what is said of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from verify.records import SEVERITY, CheckContext, CheckResult, Figure, Status
from verify.views import pci
from verify.views.nvml_health import Health, read_health

Card = TypeVar("Card")

INJECTED = "0000:ff:00.0"
"""The address of a card that is not there: an injected fault is its own."""


class Observation(NamedTuple):
    """One thing to be said of a card or a host."""

    status: Status
    text: str
    remedy: str | None = None


def check_nvidia_cards(
    context: CheckContext, sick: Callable[[Health], Health], evaluate: Callable[[Sequence[Health]], CheckResult]
) -> CheckResult:
    """What `judge` says of this host's NVIDIA cards; a skip where there are none to be used.

    `sick` makes an ill card of a bare one: with the fault `sick-gpu` it stands beside those that are there.
    """
    if "sick-gpu" in context.faults:
        here = read_health() if pci.present("nvidia") else ()
        return evaluate([*here, sick(Health(INJECTED, "a card that is not there"))])
    return skip_without_cards(context) or evaluate(read_health())


def check_amd_cards(
    context: CheckContext,
    look: Callable[[], tuple[Card, ...] | None],
    evaluate: Callable[[Sequence[Card]], CheckResult],
    sick: Sequence[Card],
) -> CheckResult:
    """What `judge` says of what amd-smi tells of this host's AMD cards; a skip without cards or amd-smi.

    `look` asks amd-smi, and gives null where it is not installed. With the fault `sick-gpu` it is `sick` that was told.
    """
    if "sick-gpu" in context.faults:
        return evaluate(sick)
    if skipped := skip_without_cards(context, "amd"):
        return skipped
    found = look()
    if found is None:
        return CheckResult("skip", "amd-smi is not installed", remedy="install ROCm's amd-smi-lib package")
    return evaluate(found)


def skip_without_cards(context: CheckContext, vendor: str = "nvidia") -> CheckResult | None:
    """Why cards of a vendor (`nvidia`, `amd`) are not looked at; null where they are."""
    if not pci.present(vendor):
        return CheckResult("skip", f"no {'NVIDIA' if vendor == 'nvidia' else 'AMD'} GPU on the PCI bus")
    if context.variant == "cpu":
        return CheckResult("skip", "the Stack computes on the CPU")
    return None


def combine(
    said: Iterable[Observation], healthy: str, figures: tuple[Figure, ...] = (), evidence: Any = None
) -> CheckResult:
    """One outcome: the worst of what was said decides, all of it is told; `healthy` where nothing was."""
    found = sorted(said, key=lambda entry: -SEVERITY.index(entry.status))
    if not found:
        return CheckResult("ok", healthy, figures, evidence)
    remedy = next((entry.remedy for entry in found if entry.remedy and entry.status == found[0].status), None)
    text = "; ".join(dict.fromkeys(entry.text for entry in found))
    return CheckResult(
        found[0].status, f"{healthy}; {text}" if found[0].status == "ok" else text, figures, evidence, remedy
    )

"""Helpers of the checks of card health: which cards to check."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from verify.host.views import pci
from verify.host.views.amd_smi import Query
from verify.host.views.nvml import Health, read_health
from verify.records import CheckContext, CheckResult

Card = TypeVar("Card")

INJECTED = "0000:ff:00.0"
"""PCI address of the simulated card with an injected fault."""


def nvidia_check(
    evaluate: Callable[[Sequence[Health]], CheckResult], **sick: Any
) -> Callable[[CheckContext], CheckResult]:
    """Return the function of a check that evaluates the NVIDIA cards of this host, and is skipped without cards to use.

    `sick` is what is wrong with the card that the fault `sick-gpu` adds.
    """

    def run(context: CheckContext) -> CheckResult:
        if "sick-gpu" in context.faults:
            here = read_health() if pci.present("nvidia") else ()
            return evaluate([*here, Health(**{"pci": INJECTED, "name": "an injected GPU", **sick})])
        return skip_without_cards(context) or evaluate(read_health())

    return run


def amd_check(
    query: Query[Card], evaluate: Callable[[Sequence[Card]], CheckResult], *sick: Card
) -> Callable[[CheckContext], CheckResult]:
    """Return the function of a check that evaluates what amd-smi reports, and is skipped without AMD cards or amd-smi.

    `sick` is the report that the fault `sick-gpu` puts in place of the real one.
    """

    def run(context: CheckContext) -> CheckResult:
        if "sick-gpu" in context.faults:
            return evaluate(sick)
        if skipped := skip_without_cards(context, "amd"):
            return skipped
        found = query.ask()
        if found is None:
            return CheckResult("skip", "amd-smi is not installed", remedy="install ROCm's amd-smi-lib package")
        return evaluate(found)

    return run


def graphics_compute(context: CheckContext) -> bool:
    """Return whether graphics of an AMD processor may compute. A build for CUDA leaves them to the screen, and their faults concern no work."""
    return not (context.variant or "").startswith("cu")


def skip_without_cards(context: CheckContext, vendor: str = "nvidia") -> CheckResult | None:
    """Return why the cards of a vendor (`nvidia`, `amd`) are not checked; None if they are."""
    if not pci.present(vendor, integrated=vendor == "nvidia" or graphics_compute(context)):
        return CheckResult("skip", f"no {'NVIDIA' if vendor == 'nvidia' else 'AMD'} GPU on the PCI bus")
    if context.variant == "cpu":
        return CheckResult("skip", "the plan computes on the CPU")
    return None

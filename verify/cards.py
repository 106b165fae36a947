"""What checks of the cards' health have in common: which cards there are, and one outcome of what is said of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from verify.records import SEVERITY, Context, Figure, Outcome, Status
from verify.views import pci
from verify.views.nvml_health import Health, healths

Seen = TypeVar("Seen")

INJECTED = "0000:ff:00.0"
"""The address of a card that is not there: an injected fault is its own."""


class Said(NamedTuple):
    """One thing to be said of a card or a host."""

    status: Status
    text: str
    remedy: str | None = None


def on_cards(
    context: Context, sick: Callable[[Health], Health], judge: Callable[[Sequence[Health]], Outcome]
) -> Outcome:
    """What `judge` says of this host's NVIDIA cards; a skip where there are none to be used.

    `sick` makes an ill card of a bare one: with the fault `sick-gpu` it stands beside those that are there.
    """
    if "sick-gpu" in context.faults:
        here = healths() if pci.present("nvidia") else ()
        return judge([*here, sick(Health(INJECTED, "a card that is not there"))])
    return no_cards(context) or judge(healths())


def on_amd_cards(
    context: Context,
    look: Callable[[], tuple[Seen, ...] | None],
    judge: Callable[[Sequence[Seen]], Outcome],
    sick: Sequence[Seen],
) -> Outcome:
    """What `judge` says of what amd-smi tells of this host's AMD cards; a skip without cards or amd-smi.

    `look` asks amd-smi, and gives null where it is not installed. With the fault `sick-gpu` it is `sick` that was told.
    """
    if "sick-gpu" in context.faults:
        return judge(sick)
    if skipped := no_cards(context, "amd"):
        return skipped
    found = look()
    if found is None:
        return Outcome("skip", "amd-smi is not installed", remedy="install ROCm's amd-smi-lib package")
    return judge(found)


def no_cards(context: Context, vendor: str = "nvidia") -> Outcome | None:
    """Why cards of a vendor (`nvidia`, `amd`) are not looked at; null where they are."""
    if not pci.present(vendor):
        return Outcome("skip", f"no {'NVIDIA' if vendor == 'nvidia' else 'AMD'} GPU on the PCI bus")
    if context.variant == "cpu":
        return Outcome("skip", "the Stack computes on the CPU")
    return None


def told(said: Iterable[Said], healthy: str, figures: tuple[Figure, ...] = (), evidence: Any = None) -> Outcome:
    """One outcome: the worst of what was said decides, all of it is told; `healthy` where nothing was."""
    found = sorted(said, key=lambda entry: -SEVERITY.index(entry.status))
    if not found:
        return Outcome("ok", healthy, figures, evidence)
    remedy = next((entry.remedy for entry in found if entry.remedy and entry.status == found[0].status), None)
    text = "; ".join(dict.fromkeys(entry.text for entry in found))
    return Outcome(
        found[0].status, f"{healthy}; {text}" if found[0].status == "ok" else text, figures, evidence, remedy
    )

"""Cards that were asked for by index are there."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import View
from provision.phases.plan.rules.base import HostRule, Verdict, accept, assume, reject


def judge(view: View) -> Iterator[Verdict]:
    if not view.bus_known:
        yield assume("the host has no GPU")
    if view.policy.gpus is not None and view.platform == "cpu":
        yield reject("cards were asked for by index, and the host has none", asked=list(view.policy.gpus))
    elif view.missing_gpus:
        missing = ", ".join(map(str, view.missing_gpus))
        yield reject(f"no card has index {missing}", missing=list(view.missing_gpus))
    elif view.policy.gpus is not None:
        yield accept("every card that was asked for is there", asked=list(view.policy.gpus))


RULE = HostRule(
    "gpus-asked", "Every card that was asked for is there.", ("pci_gpus", "nvidia.gpus", "settings.gpus"), judge
)

"""The cards in the setting `gpus`."""

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject


@host_rule("Every requested GPU exists.", reads=("pci_gpus", "nvidia.gpus", "settings.gpus"), order=20)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    if not profile.bus_known:
        yield assume("the host has no GPU")
    if profile.policy.gpus is not None and profile.platform == "cpu":
        yield reject("`gpus` names GPUs by index, and the host has none", requested=list(profile.policy.gpus))
    elif profile.missing_gpus:
        missing = ", ".join(map(str, profile.missing_gpus))
        yield reject(f"no GPU has index {missing}", missing=list(profile.missing_gpus))
    elif profile.policy.gpus is not None:
        yield accept("every requested GPU exists", requested=list(profile.policy.gpus))

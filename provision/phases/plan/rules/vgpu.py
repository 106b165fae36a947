"""The guest driver of a vGPU, which must match the vGPU manager of the hypervisor."""

from collections.abc import Iterator

from provision.phases.plan import driver
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule

SOURCE = "docs.nvidia.com/vgpu, release notes: guest driver and vGPU manager are of one release branch or the pairs listed there"


@rule("The guest driver of a vGPU stays unchanged, since it matches the hypervisor.", reads=("nvidia.gpus",), order=70)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    plan = driver.choose(option, profile)
    virtual = [card for card in profile.cards if card.virtual]
    if plan is None or not virtual:
        return
    facts = {"virtual": [card.index for card in virtual], "driver": plan.version}
    if plan.action == "keep":
        yield accept(f"{virtual[0].name} is a vGPU: its guest driver stays unchanged", source=SOURCE, **facts)
    else:
        text = f"{virtual[0].name} is a vGPU: driver {plan.version} is not the guest driver for the hypervisor's vGPU manager"
        yield reject(text, source=SOURCE, **facts)

"""The source of flash kernels."""

from collections.abc import Iterator

from provision.phases.plan import flash
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule


@rule(
    "The flash-attn package is used only as the exact wheel for torch, CUDA major, Python and C++ ABI.",
    reads=("settings.flash_attn",),
    order=180,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    choice = flash.choose(option, profile)
    requested = profile.policy.flash_attn
    if choice.refused:
        yield reject(choice.refused, source=choice.source, requested=requested)
    elif profile.platform == "cuda":
        yield accept(
            f"flash attention kernels: {choice.plan.provider}; {choice.why}", source=choice.source, requested=requested
        )

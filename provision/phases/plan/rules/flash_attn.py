"""Flash kernels come from where the policy wants them."""

from collections.abc import Iterator

from provision.phases.plan import flash
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict, accept, reject


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    chosen = flash.choose(option, profile)
    requested = profile.policy.flash_attn
    if chosen.refused:
        yield reject(chosen.refused, source=chosen.source, requested=requested)
    elif profile.platform == "cuda":
        yield accept(f"flash kernels: {chosen.plan.provider}; {chosen.why}", source=chosen.source, requested=requested)


RULE = Rule(
    id="flash-attn",
    statement="The flash-attn package is taken as the exact wheel for this torch, CUDA major, Python and C++ ABI, or not at all.",
    reads=("settings.flash_attn",),
    evaluate=evaluate,
    order=180,
)

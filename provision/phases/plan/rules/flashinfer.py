"""The source of FlashInfer's kernels."""

from collections.abc import Iterator

from provision.phases.plan import flashinfer
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(
    "FlashInfer's kernels are compiled by an nvcc of the build's CUDA major, prebuilt for exactly its version, or off.",
    reads=("cuda_toolkits", "programs", "settings.attention"),
    order=190,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    choice = flashinfer.choose(option, profile)
    if choice is None:
        return
    kits = [kit.version for kit in profile.environment.toolkits or ()]
    facts = {"toolkits": kits, "requested": profile.policy.attention}
    if choice.assumed:
        yield assume(choice.assumed)
    elif choice.refused:
        yield reject(choice.refused, source=choice.source, **facts)
    else:
        yield accept(choice.why, source=choice.source or (option.release.source if option.release else None), **facts)

"""FlashInfer's kernels are compiled by a fitting nvcc, come prebuilt at its very version, or are not used."""

from collections.abc import Iterator

from provision.phases.plan import flashinfer
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict, accept, assume, reject


def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    chosen = flashinfer.choose(option, profile)
    if chosen is None:
        return
    facts = {"toolkits": list(profile.environment.toolkits or ()), "requested": profile.policy.attention}
    if chosen.assumed:
        yield assume(chosen.assumed)
    elif chosen.refused:
        yield reject(chosen.refused, source=chosen.source, **facts)
    else:
        yield accept(chosen.why, source=chosen.source or (option.release.source if option.release else None), **facts)


RULE = Rule(
    id="flashinfer",
    statement="FlashInfer's kernels are compiled by an nvcc of the build's CUDA major, prebuilt at its very version, or switched off.",
    reads=("cuda_toolkits", "programs", "settings.attention"),
    evaluate=evaluate,
    order=190,
)

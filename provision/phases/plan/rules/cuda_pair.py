"""The CUDA major of vLLM and torch."""

from collections.abc import Iterator

from provision.catalog.versions import cuda_of, numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule
from provision.phases.plan.torch_pair import native_floor, runs_natively


@rule(
    "vLLM and torch have the same CUDA major; the same minor is preferred.", reads=("nvidia.driver_version",), order=140
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    if option.build is None or profile.platform != "cuda":
        return
    ours, theirs = option.build.variant, option.torch_variant
    facts = {"vllm": ours, "torch": theirs, "driver": profile.driver}
    if numbers(cuda_of(ours) or "0")[0] != numbers(cuda_of(theirs) or "0")[0]:
        text = (
            f"vLLM for {ours} needs a torch of the same CUDA major; the host has torch {option.torch.version}+{theirs}"
        )
        yield reject(text, source=option.torch.source, **facts)
        return
    if ours == theirs:
        yield accept(f"vLLM and torch {option.torch.version} are both {ours}", source=option.torch.source, **facts)
        return
    why = "torch has no variant of the same CUDA minor for every GPU"
    if profile.policy.torch == "existing":
        why = "it is the host's torch"
    if profile.driver and not runs_natively(profile.driver, ours) and runs_natively(profile.driver, theirs):
        why = f"driver {profile.driver} runs {theirs} without compatibility mode; {ours} needs {native_floor(cuda_of(ours) or '')} for that"
    yield accept(
        f"vLLM for {ours} is combined with torch {option.torch.version}+{theirs} of the same CUDA major: {why}",
        source=option.torch.source,
        **facts,
    )

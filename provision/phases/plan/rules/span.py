"""One model over several hosts."""

from __future__ import annotations

from collections.abc import Iterator

from provision.catalog.versions import numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule

SINCE = "0.11.1"
"""The first release whose processes start on several hosts without a scheduler (`--nnodes`)."""
SOURCE = "vllm/engine/arg_utils.py of the wheels 0.11.0 and 0.11.1; github.com/vllm-project/vllm/pull/23691"

LINK = {
    "layers": "the network between the {hosts} hosts carries what one part of the layers hands to the next",
    "each layer": "the network between the {hosts} hosts is as fast as a link between GPUs: each layer waits for it",
}
"""What is assumed of the network, by what is split over the hosts: no fact names the speed of a link between hosts."""


@rule(
    "If several hosts are to serve one model together, the release supports that.",
    reads=("settings.span", "settings.pipeline_parallel", "nvidia.gpus", "amd.gpus"),
    order=130,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    policy, release = profile.policy, option.release
    if policy.span == 1 or release is None:
        return
    if numbers(release.version) < numbers(SINCE):
        yield reject(
            f"vLLM {release.version} serves a model on one host only; {policy.span} are wanted, and vLLM can do that from {SINCE} on",
            source=SOURCE,
            hosts=policy.span,
        )
        return
    on_cpu = profile.platform == "cpu"
    pipeline = policy.pipeline or (1 if on_cpu else policy.span)
    cards = len(profile.serving)
    hosts = f"{policy.span} hosts" if on_cpu else f"{policy.span} hosts with {cards} GPU{'s' if cards > 1 else ''} each"
    whole_layers = pipeline % policy.span == 0
    split = "each has a part of the layers" if whole_layers else "all share each layer"
    yield accept(f"{hosts} serve one model together: {split}", source=SOURCE, hosts=policy.span, pipeline=pipeline)
    yield assume(LINK["layers" if whole_layers else "each layer"].format(hosts=policy.span))

"""How the model is served: its family's choices, and the settings that override them."""

from __future__ import annotations

from collections.abc import Iterator

from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.family.choices import serving_plan, unknown_parsers
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule

SOURCE = "provision/phases/plan/family/parsers.toml: the wheels of each release"


@rule(
    "The release has the parsers in the settings; the family of the model decides the rest.",
    reads=("settings.model", "settings.tool_parser", "settings.reasoning_parser", "settings.vllm_args"),
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    served, release = profile.served_model, option.release
    if served is None or release is None:
        return
    for problem in unknown_parsers(served.wanted, release.version):
        yield reject(problem, source=SOURCE, vllm=release.version)
    for choice in serving_plan(served.shape, served.wanted, release.version).choices:
        yield accept(choice.text, source=choice.source, by=choice.by, flags=list(choice.flags))

"""The quantisation of the model's weights."""

from __future__ import annotations

from collections.abc import Iterator

from provision.catalog.versions import numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.family.tables import quantizations
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule


@rule(
    "The release loads the quantisation that config.json names, on these cards.",
    reads=("nvidia.gpus", "settings.model"),
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    served, release = profile.served_model, option.release
    row = quantizations().get(served.shape.quantization or "") if served else None
    if row is None or release is None:
        return
    lowest = profile.capabilities[0] if profile.platform == "cuda" and profile.capabilities else None
    facts = {"quantization": row.name, "vllm": release.version, "capability": lowest}
    if release.version not in row.releases:
        text = (
            f"the model's weights are quantised as `{row.name}`, which exists {row.releases}; this is {release.version}"
        )
        yield reject(text, source=row.source, **facts)
    elif lowest and row.capability and numbers(lowest) < numbers(row.capability):
        text = f"the model's weights are quantised as `{row.name}`, which needs compute capability {row.capability}; the cards have {lowest}"
        yield reject(text, source=row.source, **facts)
    else:
        yield accept(f"vLLM {release.version} loads weights quantised as `{row.name}`", source=row.source, **facts)

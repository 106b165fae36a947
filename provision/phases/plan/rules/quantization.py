"""The quantisation of the model's weights."""

from __future__ import annotations

from collections.abc import Iterator

from provision.catalog.versions import numbers
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.family.tables import int8_on_x86, quantizations
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, assume, reject, rule


@rule(
    "The release loads the quantisation that config.json names, and these GPUs, or this processor, compute with it.",
    reads=("nvidia.gpus", "cpu.flags", "settings.model"),
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
        text = f"the model's weights are quantised as `{row.name}`, which needs compute capability {row.capability}; the GPUs have {lowest}"
        yield reject(text, source=row.source, **facts)
    elif served and served.shape.int8_activations and profile.platform == "cpu" and profile.multiplies_int8 is not True:
        needed = " or ".join(int8_on_x86().flags)
        if profile.multiplies_int8 is None:
            yield assume(f"the processor has {needed}, without which it multiplies the model's 8-bit integers wrongly")
        else:
            text = f"the model multiplies 8-bit integers, which goes wrong on processors without {needed}; this one has neither"
            yield reject(text, source=int8_on_x86().source, **facts)
    else:
        yield accept(f"vLLM {release.version} loads weights quantised as `{row.name}`", source=row.source, **facts)

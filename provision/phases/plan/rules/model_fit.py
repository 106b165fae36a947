"""The memory for the model: weights, key-value cache and overhead of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from provision.core.formatting import GIB
from provision.phases.plan.fit import fit
from provision.phases.plan.fit.weights import KNOWN
from provision.phases.plan.host_profile import HostProfile, ServedModel
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject

if TYPE_CHECKING:
    from provision.phases.plan.fit import Fit

SOURCE = "provision/phases/plan/fit: vLLM's own arithmetic; the overhead of the engine is estimated"


@host_rule(
    "The model's weights and a context of useful length fit in the memory of the devices.",
    reads=("nvidia.gpus", "amd.gpus", "memory", "settings.model", "settings.max_model_len", "settings.tensor_parallel"),
    order=120,
    cause="model-too-large",
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    served, budget = profile.served_model, profile.budget
    if served is None:
        return
    if budget is None:
        yield assume(
            f"model `{served.model}` ({served.gib:.1f} GiB of weights) fits the devices, whose memory is unknown"
        )
        return
    found = fit(served.shape, served.request, budget)
    facts = {"model": served.model, "architecture": served.shape.architecture, "weights_gib": round(served.gib, 1)}
    facts |= {"devices": budget.devices, "device_gib": round(budget.device_bytes / GIB, 1), "tensor": found.tensor}
    if found.problem:
        yield reject(found.text, source=SOURCE, **facts)
        return
    yield from _assumptions(served)
    yield accept(_describe(found, served), source=SOURCE, length=found.length, tokens=found.tokens, **facts)


def _assumptions(served: ServedModel) -> Iterator[Verdict]:
    if served.shape.weights.source == KNOWN:
        yield assume(f"the sizes of `{served.model}` are those in Firstlight's catalog; the model hub does not answer")
    if served.shape.not_computed:
        yield assume(f"the KV cache of `{served.model}` fits; it cannot be computed: {served.shape.not_computed}")
    elif served.request.drafts:
        yield assume(f"the KV cache and the draft model of `{served.model}` fit; they are not computed")
    elif not served.shape.known:
        yield assume(
            f"all layers of `{served.model}` have equal KV caches ({served.shape.architecture} is not in the table)"
        )


def _describe(found: Fit, served: ServedModel) -> str:
    weights = f"{served.gib:.1f} GiB of weights fit"
    if found.length is None or found.tokens is None:
        return weights
    whole = found.length >= served.shape.usual_length
    length = f"a context of {found.length} tokens" + ("" if whole else f", of the model's {served.shape.usual_length}")
    return f"{weights} with {length}; the KV cache holds {found.tokens} tokens"

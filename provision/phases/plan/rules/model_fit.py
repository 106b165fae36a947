"""The model that is to be served fits: its weights, its cache, and what the engine takes beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from provision.core.formatting import GIB
from provision.phases.plan.host_profile import HostProfile, Load
from provision.phases.plan.rules.base import HostRule, Verdict, accept, assume, reject

if TYPE_CHECKING:
    from provision.phases.plan.fit import Fit

SOURCE = "provision/phases/plan/fit: vLLM's own arithmetic; what the engine takes beside weights and cache is estimated"


def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    load, budget = profile.load, profile.budget
    if load is None:
        return
    if budget is None:
        yield assume(
            f"the devices hold model `{load.model}` ({load.gib:.1f} GiB of weights): their memory is not known"
        )
        return
    from provision.phases.plan.fit import fit  # noqa: PLC0415 - only where a model of the user's is planned

    found = fit(load.shape, load.asked, budget)
    facts = {"model": load.model, "architecture": load.shape.architecture, "weights_gib": round(load.gib, 1)}
    facts |= {"devices": budget.devices, "device_gib": round(budget.device_bytes / GIB, 1), "tensor": found.tensor}
    if found.problem:
        yield reject(found.text, source=SOURCE, **facts)
        return
    yield from _taken_for_granted(load)
    yield accept(_said(found, load), source=SOURCE, length=found.length, tokens=found.tokens, **facts)


def _taken_for_granted(load: Load) -> Iterator[Verdict]:
    if load.shape.not_computed:
        yield assume(f"the cache of `{load.model}` fits beside its weights: {load.shape.not_computed}")
    elif load.asked.drafts:
        yield assume(f"the cache and the draft model of `{load.model}` fit beside its weights: they are not computed")
    elif not load.shape.known:
        yield assume(
            f"{load.shape.architecture} is in no table: all layers of `{load.model}` keep keys and values alike"
        )


def _said(found: Fit, load: Load) -> str:
    weights = f"{load.gib:.1f} GiB of weights fit"
    if found.length is None or found.tokens is None:
        return weights
    whole = found.length >= load.shape.usual_length
    length = f"a context of {found.length} tokens" + (
        "" if whole else f", of the model's own {load.shape.usual_length}"
    )
    return f"{weights} with {length}; the cache holds {found.tokens} tokens"


RULE = HostRule(
    "model-fit",
    "The model's weights and a context of useful length fit into the memory of the devices.",
    ("nvidia.gpus", "amd.gpus", "memory", "settings.model", "settings.max_model_len", "settings.tensor_parallel"),
    evaluate,
)

"""Single changes that make a model fit, cheapest first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from provision.core.formatting import GIB
from provision.core.models.settings import typed
from provision.phases.plan.fit.result import fit
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.split import tensor_sizes
from provision.phases.plan.fit.weights import FLOATS, Weights

MOST_DEVICES = 64
"""The limit for cards of one host."""
_QUANTISED = ((8, 1.0), (4, 0.5625))
"""Bits and bytes of a weight in a quantised checkpoint; 4 bits include a 16-bit scale for every 32 weights."""
_CARDS_GIB = (16, 24, 32, 40, 48, 64, 80, 96, 141, 192, 288)
"""Memory sizes of cards on the market."""


@dataclass(frozen=True)
class Alternative:
    """A change as text and as settings, with the changed arguments of `fit`."""

    text: str
    policy: dict[str, str]
    shape: Shape
    request: ServingRequest
    budget: DeviceBudget


def alternatives(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Iterator[Alternative]:
    """Yield every single change that makes the model fit."""
    if fit(shape, request, budget).problem is None:
        return
    for change in (*_settings(shape, request, budget), *_other(shape, request, budget)):
        if fit(change.shape, change.request, change.budget).problem is None:
            yield change


def _settings(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Iterator[Alternative]:
    if request.dtype == "float32":
        yield Alternative("with `--set dtype=auto`", {"dtype": "auto"}, shape, replace(request, dtype="auto"), budget)
    found = fit(shape, request, budget)
    if found.longest and request.length != found.longest:
        text = f"with `--set max_model_len={found.longest}`"
        yield Alternative(
            text, {"max_model_len": str(found.longest)}, shape, replace(request, length=found.longest), budget
        )
    each = budget.devices * request.hosts // (request.pipeline * request.data)
    for size in reversed(tensor_sizes(shape, each)):
        if size != found.tensor:
            text = f"with `--set tensor_parallel={size}`"
            yield Alternative(text, {"tensor_parallel": str(size)}, shape, replace(request, tensor=size), budget)
    if budget.fp8_cache and not request.cache_dtype.startswith("fp8"):
        arguments = [*request.arguments, "--kv-cache-dtype", "fp8"]
        listed = json.dumps(arguments)
        text = f"with `{typed('vllm_args', listed)}` (an 8-bit cache)"
        yield Alternative(text, {"vllm_args": listed}, shape, replace(request, cache_dtype="fp8"), budget)


def _other(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Iterator[Alternative]:
    others = request.pipeline * request.data
    if budget.platform != "cpu":
        for size in tensor_sizes(shape, MOST_DEVICES // others):
            devices = -(-size * others // request.hosts)
            if devices > budget.devices:
                text = f"with {devices} such GPUs" + (" in each host" if request.hosts > 1 else "")
                yield Alternative(text, {}, shape, replace(request, tensor=None), replace(budget, devices=devices))
    if shape.quantization is None:
        for bits, bytes_each in _QUANTISED:
            smaller = _quantised(shape, bits, bytes_each)
            text = f"with the model quantised to {bits} bits ({smaller.weights.total / GIB:.0f} GiB of weights)"
            yield Alternative(text, {}, smaller, request, budget)
    sizes = _CARDS_GIB if budget.platform != "cpu" else tuple(2**power for power in range(3, 13))
    for gib in sizes:
        if gib * GIB > budget.device_bytes:
            text = f"with {gib} GiB of memory" if budget.platform == "cpu" else f"with GPUs of {gib} GiB"
            yield Alternative(text, {}, shape, request, replace(budget, device_bytes=gib * GIB))


def _quantised(shape: Shape, bits: int, bytes_each: float) -> Shape:
    """Return the shape of the same model with fewer bits; embedding and head stay unchanged."""
    tables = min((1 if shape.tied else 2) * shape.vocabulary * shape.hidden * 2, shape.weights.as_served(2))
    numbers = (shape.weights.as_served(2) - tables) / 2
    rest = sum(size for dtype, size in shape.weights.by_dtype if dtype not in FLOATS)
    weights = Weights((("U8", int(numbers * bytes_each) + rest), ("BF16", tables)), "estimated")
    return replace(shape, weights=weights, quantization=f"{bits} bits")

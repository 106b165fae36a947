"""The answer: whether a model fits, how it is split, and the longest context it can be served with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from provision.core.formatting import GIB
from provision.phases.plan.fit import tables
from provision.phases.plan.fit.kv_cache import Cache, cache_of
from provision.phases.plan.fit.overhead import activation_bytes, batch_of, fixed_bytes
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.split import tensor_sizes, weight_bytes, why_not

MIB = 2**20
Problem = Literal["split", "memory", "length", "beyond"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How a model lies on a host. Sizes are bytes of one device; null where it cannot be computed."""

    tensor: int
    weights: int
    overhead: int
    """Activations, graphs, context: estimated."""
    memory: int
    """What the engine may take of a device, cache included."""
    cache: Cache | None = None
    cache_bytes: int | None = None
    longest: int | None = None
    """The longest context of which one request fits, up to the model's own."""
    length: int | None = None
    """The context it is served with; null leaves it to vLLM, which takes the model's own."""
    problem: Problem | None = None
    text: str = ""

    @property
    def tokens(self) -> int | None:
        """Tokens that the cache holds, as vLLM's log counts them."""
        if self.cache is None or self.cache_bytes is None or not self.length:
            return None
        return self.cache.tokens(self.cache_bytes, self.length)


def fit(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Fit:
    """Lay a model out on a host; `problem` and `text` say why it does not fit."""
    tensor, wrong = _split(shape, request, budget)
    row = tables.platforms()[budget.platform]
    # what is stored in 32 bits is served in 16 unless they are asked for
    element = 4 if request.dtype == "float32" else 2
    batch = batch_of(request, budget)
    processes = tensor * request.pipeline * request.data
    weights = weight_bytes(shape, tensor, request.pipeline, element)
    overhead = activation_bytes(shape, batch, tensor, element) + fixed_bytes(request, budget, processes)
    memory = int(budget.device_bytes * (request.share or row.memory_share))
    if budget.platform == "cpu":
        memory //= processes
    found = Fit(tensor, weights, overhead, memory)
    if wrong:
        return replace(found, problem="split", text=wrong)
    left = memory - weights - overhead
    if left <= 0:
        return replace(found, problem="memory", text=_too_large(found, shape, budget, processes))
    if shape.not_computed or request.drafts:
        return found
    cache = cache_of(
        shape,
        tensor=tensor,
        pipeline=request.pipeline,
        element=request.cache_element(element),
        block=row.latent_block if shape.latent else row.block,
        in_flight=_overlap(request, budget) * batch.tokens,
    )
    wanted = request.length or shape.usual_length
    size = left if budget.platform != "cpu" or request.share else _cpu_cache(budget, cache, left, wanted)
    longest = cache.longest(size, shape.length)
    return _lengthened(replace(found, cache=cache, cache_bytes=size, longest=longest), shape, request)


def _lengthened(found: Fit, shape: Shape, request: ServingRequest) -> Fit:
    """Choose the length: the one asked for or the model's own, else the longest that fits."""
    assert found.cache is not None
    cache, size, longest = found.cache, found.cache_bytes or 0, found.longest or 0
    wanted = request.length or shape.usual_length
    if request.length and request.length > shape.length:
        text = f"{request.length} tokens are asked for; the model was made for {shape.length}"
        return replace(found, problem="beyond", text=text)
    if wanted <= longest:
        return replace(found, length=wanted)
    chosen = longest // tables.length().step * tables.length().step
    if request.length:
        text = (
            f"a context of {request.length} tokens takes {_gib(cache.bytes_for(request.length))} of cache on each device; "
            f"beside weights ({_gib(found.weights)}) and what the engine takes ({_gib(found.overhead)}) "
            f"{_gib(size)} are left, enough for {longest} tokens"
        )
        return replace(found, problem="length", text=text)
    if chosen < min(tables.length().least, wanted):
        text = (
            f"beside weights ({_gib(found.weights)}) and what the engine takes ({_gib(found.overhead)}) {_gib(size)} are left "
            f"on each device for the cache: a context of {longest} tokens, and {min(tables.length().least, wanted)} are the least that is chosen unasked"
        )
        return replace(found, problem="length", text=text)
    return replace(found, length=chosen)


def _cpu_cache(budget: DeviceBudget, cache: Cache, left: int, wanted: int) -> int:
    """A share of the host's memory, more where one request needs it, never more than is left; in whole MiB."""
    row = tables.cpu_cache()
    usual = max(int(budget.device_bytes * row.cpu_share), int(row.cpu_least * GIB))
    needed = -(-cache.bytes_for(wanted) // MIB) * MIB
    return min(max(usual, needed), left) // MIB * MIB


def _split(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> tuple[int, str | None]:
    """The tensor size: the one asked for, else the largest valid one; and what is wrong with it."""
    others = request.pipeline * request.data
    each = budget.devices // others if budget.platform != "cpu" else 1
    tensor = request.tensor or max(tensor_sizes(shape, each), default=1)
    if request.pipeline > shape.layers:
        return tensor, f"{shape.layers} layers cannot be dealt out to {request.pipeline} pipeline stages"
    if budget.platform != "cpu" and tensor * others > budget.devices:
        split = f"tensor {tensor} x pipeline {request.pipeline} x data {request.data} parallel"
        return tensor, f"{split} needs {tensor * others} cards, {budget.devices} serve"
    return tensor, why_not(shape, tensor)


def _overlap(request: ServingRequest, budget: DeviceBudget) -> int:
    """Batches in flight at once: as many as pipeline stages, two where scheduling runs ahead of one."""
    return max(request.pipeline, tables.platforms()[budget.platform].overlap)


def _too_large(found: Fit, shape: Shape, budget: DeviceBudget, processes: int) -> str:
    whole = f"the weights of this model ({shape.name}) take {_gib(shape.weights.total)}"
    if budget.platform == "cpu":
        return f"{whole}, and what the engine takes is {_gib(found.overhead * processes)}; the host has {_gib(budget.device_bytes)} of memory"
    cards = f"{processes} card{'s' if processes > 1 else ''}"
    return (
        f"{whole}: on {cards} {_gib(found.weights)} each, and what the engine takes beside them is {_gib(found.overhead)}; "
        f"vLLM may take {_gib(found.memory)} of each card's {_gib(budget.device_bytes)}"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"

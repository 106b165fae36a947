"""The result of a fit: the split of a model, its memory on a device, and the longest context."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import gcd

from provision.core.formatting import GIB
from provision.core.models.settings import option_of, value_of
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.split import Cache, cache_of, quantised, tensor_sizes, weight_bytes, why_not
from provision.phases.plan.fit.tables import Batch, batches, engine, online, platforms, rules

MIB = 2**20


@dataclass(frozen=True)
class Fit:
    """A model on a host. Sizes are bytes of one device; None if they cannot be computed."""

    tensor: int
    weights: int
    overhead: int
    """Activations, graphs, context: estimated."""
    memory: int
    """The memory that the engine may use, cache included."""
    cache: Cache | None = None
    cache_bytes: int | None = None
    longest: int | None = None
    """The longest context, in tokens, whose request fits, up to the model's."""
    length: int | None = None
    """The context to serve with; None leaves it to vLLM, which uses the model's."""
    problem: str | None = None
    """Why the model does not fit."""

    @property
    def tokens(self) -> int | None:
        """Return the tokens in the cache, as vLLM's log counts them."""
        if self.cache is None or self.cache_bytes is None or not self.length:
            return None
        return self.cache.tokens(self.cache_bytes, self.length)


def fit(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Fit:
    """Compute how a model fits on a host; `problem` of the result is the reason if it does not."""
    if "rope" in (value_of(request.arguments, "--hf-overrides") or ""):  # vLLM itself checks the length that it gives
        shape = replace(shape, length=max(shape.length, request.length or 0))
    tensor, wrong = _split(shape, request, budget)
    row = platforms()[budget.platform]
    # vLLM serves 32-bit weights in 16 bits unless `--set dtype=float32` is set
    element = 4 if request.dtype == "float32" else 2
    batch = _batch(request, budget)
    processes = tensor * request.pipeline * request.data
    draft, draft_tensor = shape.draft, request.draft_tensor or tensor
    loaded = _loaded(shape, request, element)
    weights = weight_bytes(loaded, tensor, request.pipeline, element, request.data)
    weights += weight_bytes(draft, draft_tensor, 1, element) if draft else 0
    weights -= min(request.offload, weights) if budget.platform != "cpu" else 0
    overhead = _activation_bytes(shape, batch, tensor, element)
    # independent of the model: context, buffers between peers, captured graphs
    overhead += int((row.context + (row.peers if processes > 1 else 0) + (0 if request.eager else row.graphs)) * GIB)
    memory = int(budget.device_bytes * (request.share or row.memory_share))
    if budget.platform == "cpu":
        memory = memory * request.hosts // processes
    found = Fit(tensor, weights, overhead, memory)
    if wrong:
        return replace(found, problem=wrong)
    left = memory - weights - overhead
    if left <= 0 and not _resizing(shape, request):
        return replace(found, problem=_too_large(found, loaded, budget, processes))
    if uncomputed(shape, request):
        return found
    cache_of_layers = partial(
        cache_of,
        element=1 if shape.cache_type(request.cache_dtype).startswith("fp8") else element,
        block=row.latent_block if shape.latent else row.block,
        # a batch for each pipeline stage, at least two with asynchronous scheduling
        in_flight=max(request.pipeline, row.overlap) * batch.tokens,
    )
    cache = cache_of_layers(shape, tensor=tensor, pipeline=request.pipeline)
    if draft:
        added = cache_of_layers(draft, tensor=draft_tensor, pipeline=1).block_bytes
        cache = replace(cache, block_bytes=cache.block_bytes + added)
    wanted = request.length or shape.usual_length
    size = left if budget.platform != "cpu" or request.share else _cpu_cache(budget, cache, left, wanted)
    longest = cache.longest(size, max(shape.length, request.length or 0) if request.may_exceed else shape.length)
    return _lengthened(replace(found, cache=cache, cache_bytes=size, longest=longest), shape, request)


def uncomputed(shape: Shape, request: ServingRequest) -> str | None:
    """Return why the KV cache cannot be computed; None if it can.

    Layers of the draft model are in the model's group where all layers keep keys and values of the whole context
    (`is_uniform_type` of UniformTypeKVCacheSpecs in vllm/v1/kv_cache_interface.py, 0.32.0).
    """
    draft = shape.draft
    if option := _resizing(shape, request):
        return f"`{option}` changes the memory that its weights take"
    if shape.not_computed or not (draft or request.drafts):
        return shape.not_computed
    if draft is None:
        return "it has layers for speculative decoding"
    both = (shape, draft)
    is_uniform = not any(one.latent or one.not_computed or any(one.windows) for one in both)
    return None if is_uniform else "its draft model keeps other state"


def _loaded(shape: Shape, request: ServingRequest, element: int) -> Shape:
    """Return the model with its layers quantised, if it is not quantised and an argument wants it so."""
    stored = online().get(request.quantization or "")
    if request.quantization is None or stored is None or shape.quantization:
        return shape
    return quantised(shape, element, method=request.quantization, stored=stored)


def _resizing(shape: Shape, request: ServingRequest) -> str | None:
    """Return an argument by which the weights take other memory, which is not computed; None if there is none.

    Of models that take more than text, vLLM quantises the encoder or not, as their class has it.
    """
    given = {option_of(word) for word in request.arguments}
    is_known = request.quantization is None or (request.quantization in online() and not shape.inputs)
    changes = {
        "--quantization": not shape.quantization and not is_known,
        "--quantization-config": not shape.quantization and "--quantization-config" in given,
        "--offload-group-size": "--offload-group-size" in given,
    }
    return next((option for option, holds in changes.items() if holds), None)


def _lengthened(found: Fit, shape: Shape, request: ServingRequest) -> Fit:
    """Choose the context: the requested or the model's, else the longest that fits."""
    assert found.cache is not None
    cache, size, longest = found.cache, found.cache_bytes or 0, found.longest or 0
    wanted = request.length or shape.usual_length
    if request.length and request.length > shape.length and not request.may_exceed:
        text = f"a context of {request.length} tokens is requested; the model supports {shape.length}"
        return replace(found, problem=text)
    if wanted <= longest:
        return replace(found, length=wanted)
    row = engine()
    chosen, least = longest // row.length_step * row.length_step, min(row.least_length, wanted)
    used = f"after weights ({_gib(found.weights)}) and overhead of the engine ({_gib(found.overhead)})"
    if request.length:
        needed = f"a context of {wanted} tokens needs {_gib(cache.bytes_for(wanted))} of cache on each device"
        text = f"{needed}; {used} {_gib(size)} are left, enough for {longest} tokens"
        return replace(found, problem=text)
    if chosen < least:
        left = f"{_gib(size)} are left on each device for the cache: a context of {longest} tokens"
        return replace(found, problem=f"{used} {left}, and {least} is the shortest default")
    return replace(found, length=chosen)


def _cpu_cache(budget: DeviceBudget, cache: Cache, left: int, wanted: int) -> int:
    """Return a share of the host's memory, more if one request needs it, at most what is left; in whole MiB."""
    row = engine()
    usual = max(int(budget.device_bytes * row.cpu_share), int(row.cpu_least * GIB))
    needed = -(-cache.bytes_for(wanted) // MIB) * MIB
    return min(max(usual, needed), left) // MIB * MIB


def _split(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> tuple[int, str | None]:
    """Return the tensor parallel size, requested or the largest valid one, and what is wrong with it."""
    others = request.pipeline * request.data
    devices = budget.devices * request.hosts
    each = devices // others if budget.platform != "cpu" else request.hosts // gcd(request.hosts, request.pipeline)
    tensor = request.tensor or max(tensor_sizes(shape, each), default=1)
    if request.pipeline > shape.layers:
        return tensor, f"{shape.layers} layers cannot be distributed over {request.pipeline} pipeline stages"
    split = f"tensor {tensor} x pipeline {request.pipeline} x data {request.data} parallel"
    if budget.platform != "cpu" and tensor * others > devices:
        return tensor, f"{split} needs {tensor * others} GPUs, {devices} serve"
    if tensor * others % request.hosts:
        return tensor, f"{split}: {tensor * others} processes cannot be divided by {request.hosts} hosts"
    if shape.draft and (reason := why_not(shape.draft, request.draft_tensor or tensor)):
        return tensor, why_not(shape, tensor) or f"the draft model: {reason}"
    return tensor, why_not(shape, tensor)


def _too_large(found: Fit, shape: Shape, budget: DeviceBudget, processes: int) -> str:
    whole = f"the weights of this model ({shape.name}) need {_gib(shape.weights.total)}"
    whole += f", those of its draft model {_gib(shape.draft.weights.total)}" if shape.draft else ""
    if budget.platform == "cpu":
        return f"{whole}, and the overhead of the engine is {_gib(found.overhead * processes)}; the host has {_gib(budget.device_bytes)} of memory"
    each = f", {_gib(found.weights)} on each of {processes} GPUs" if processes > 1 else ""
    return (
        f"{whole}{each}, and the overhead of the engine is {_gib(found.overhead)}; "
        f"vLLM may use {_gib(found.memory)} of each GPU's {_gib(budget.device_bytes)}"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


def _batch(request: ServingRequest, budget: DeviceBudget) -> Batch:
    """Return the requested batch, else vLLM's default for a device of this size."""
    memory = budget.device_bytes if budget.platform != "cpu" else 0
    row = next(row for row in batches() if memory >= row.from_gib * GIB)
    return replace(row, tokens=request.batch or row.tokens, sequences=request.sequences or row.sequences)


def _activation_bytes(shape: Shape, batch: Batch, tensor: int, element: int) -> int:
    """Return the bytes on a device at the peak of a forward pass: rows of the layers for every token, logits for every sequence."""
    row = engine()
    inner = max(shape.inner) / tensor
    if shape.experts_a_token:
        inner = shape.experts_a_token * (min(shape.inner) / tensor + shape.hidden / row.inner_copies)
    rows = batch.tokens * (row.hidden_copies * shape.hidden + row.inner_copies * inner) * element
    return int(rows + row.logit_copies * batch.sequences * shape.vocabulary * 4)


MOST_DEVICES = 64
"""The limit for cards of one host."""
_CARDS_GIB = (16, 24, 32, 40, 48, 64, 80, 96, 141, 192, 288)
"""Memory sizes of cards on the market."""


@dataclass(frozen=True)
class Alternative:
    """A change as text and as settings, with the changed arguments of `fit`."""

    text: str
    policy: dict[str, str]
    request: ServingRequest
    budget: DeviceBudget


def alternatives(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Iterator[Alternative]:
    """Yield every single change that makes the model fit."""
    if fit(shape, request, budget).problem is None:
        return
    changes = (*_settings(shape, request, budget), *_other(shape, request, budget))
    yield from (change for change in changes if fit(shape, change.request, change.budget).problem is None)


def _settings(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Iterator[Alternative]:
    if request.dtype == "float32" and shape.text_type not in rules("float16")["refused"]:
        yield Alternative("with `--set dtype=auto`", {"dtype": "auto"}, replace(request, dtype="auto"), budget)
    found = fit(shape, request, budget)
    if found.longest and request.length != found.longest:
        text, shorter = f"with `--set max_model_len={found.longest}`", replace(request, length=found.longest)
        yield Alternative(text, {"max_model_len": str(found.longest)}, shorter, budget)
    each = budget.devices * request.hosts // (request.pipeline * request.data)
    for size in reversed(tensor_sizes(shape, each)):
        if size != found.tensor:
            text = f"with `--set tensor_parallel={size}`"
            yield Alternative(text, {"tensor_parallel": str(size)}, replace(request, tensor=size), budget)


def _other(shape: Shape, request: ServingRequest, budget: DeviceBudget) -> Iterator[Alternative]:
    others = request.pipeline * request.data
    if budget.platform != "cpu":
        for size in tensor_sizes(shape, MOST_DEVICES // others):
            devices = -(-size * others // request.hosts)
            if devices > budget.devices:
                text = f"with {devices} such GPUs" + (" in each host" if request.hosts > 1 else "")
                yield Alternative(text, {}, replace(request, tensor=None), replace(budget, devices=devices))
    sizes = _CARDS_GIB if budget.platform != "cpu" else tuple(2**power for power in range(3, 13))
    for gib in sizes:
        if gib * GIB > budget.device_bytes:
            text = f"with {gib} GiB of memory" if budget.platform == "cpu" else f"with GPUs of {gib} GiB"
            yield Alternative(text, {}, request, replace(budget, device_bytes=gib * GIB))

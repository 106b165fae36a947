"""A simulated card: tensors that report `cuda:0` as their device and are computed on the CPU, as far as the checks use a card.

As on a real card, a call with tensors of both devices is an error, and what torch's kernels refuse is refused. Numbers,
times and memory of a card cannot be simulated: they need a card.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,attr-defined,no-any-return"

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch.autograd import DeviceType
from torch.nn.attention import bias
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
KERNELS = {
    "_scaled_dot_product_flash_attention": "void pytorch_flash::flash_fwd_kernel<...>(pytorch_flash::Flash_fwd_params)",
    "_scaled_dot_product_efficient_attention": "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(...)",
    "_scaled_dot_product_cudnn_attention": "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_kernel0_0",
}
"""Names of kernels that run on a card for an operator, as the profiler shows them."""
REAL_PROFILE = torch.autograd.profiler.profile


class OnCard(torch.Tensor):
    """A tensor of the card; `numbers` has its content."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Self:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the decisions that torch makes by the device before an operator is called."""
        own: dict[Any, Any] = {
            torch.nn.functional.scaled_dot_product_attention: _dot_product,
            torch.autograd.grad: _gradients,
        }
        if func in own:
            return own[func](*args, **(kwargs or {}))
        if func in (torch.Tensor.copy_, torch.Tensor.__setitem__):
            place = tree_map(_numbers, args[1]) if func is torch.Tensor.__setitem__ else ...
            _numbers(args[0])[place] = _numbers(args[-1])
            return args[0]
        if func is torch.Tensor.to and isinstance(args[1], OnCard):
            return args[0].to(args[1].dtype).to(DEVICE)
        if func.__name__ in ("__int__", "__invert__", "contiguous", "ones_like", "zeros_like", "empty_like"):
            result = func(args[0].numbers)
            return OnCard(result) if isinstance(result, torch.Tensor) else result
        if func is torch.Tensor.__getitem__:
            return OnCard(_numbers(args[0])[tree_map(_numbers, args[1])])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} came to a tensor of the GPU when there was no GPU")


class Card(TorchDispatchMode):
    """Computes for `OnCard`; `ran` has the names of the operators in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.refused: set[str] = set()
        """Paths that refuse everything."""
        self.captured: list[tuple[Any, Any, Any, torch.Tensor]] | None = None
        """The calls while a graph is captured, each with the place of its result."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        self.ran.append(name)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        cards = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
        if cards and any(tensor.dim() for tensor in tensors if not isinstance(tensor, OnCard)) and name != "copy_":
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device")
        target = kwargs.get("device")
        there = bool(cards) if target is None else torch.device(target).type == "cuda"
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        plain_args, plain_kwargs = tree_map(_numbers, (args, kwargs))
        if name in ("_softmax", "_log_softmax") and plain_args[2]:  # a card takes 16 bits and gives 32 in one operator
            plain_args = (plain_args[0].float(), plain_args[1], False)
        result = func(*plain_args, **plain_kwargs)
        if self.captured is not None:
            self.captured.append((func, plain_args, plain_kwargs, result))
        if name.endswith("_") and not name.endswith("__"):
            return args[0]
        return tree_map(lambda one: OnCard(one) if isinstance(one, torch.Tensor) else one, result) if there else result


def _numbers(one: Any) -> Any:
    return one.numbers if isinstance(one, OnCard) else one


def _gradients(_result: OnCard, inputs: list[OnCard], **_: Any) -> tuple[OnCard, ...]:
    """Return zeros, because no graph leads to the inputs."""
    return tuple(OnCard(torch.zeros_like(one.numbers)) for one in inputs)


def _dot_product(query, key, value, *, attn_mask=None, is_causal=False, enable_gqa=False):
    """Choose among the enabled paths as torch's sdp_utils.cpp (2.11) does. Raises RuntimeError if none is left."""
    corner = isinstance(attn_mask, CausalBias)
    if corner:
        assert attn_mask.variant == CausalVariant.LOWER_RIGHT
        assert (attn_mask.seq_len_q, attn_mask.seq_len_kv) == (query.shape[2], key.shape[2])
    low, alike = query.dtype in (torch.float16, torch.bfloat16), query.shape[1] == key.shape[1]
    assert alike or enable_gqa
    square = not is_causal or query.shape[2] == key.shape[2]
    on, refused = torch.backends.cuda, Profile.card.refused
    if on.flash_sdp_enabled() and low and square and (corner or attn_mask is None) and "flash" not in refused:
        path = "_scaled_dot_product_flash_attention"
    elif on.cudnn_sdp_enabled() and low and alike and query.shape[3] <= 128 and key.shape[2] > 1 and not corner:
        path = "_scaled_dot_product_cudnn_attention"
    elif on.mem_efficient_sdp_enabled() and alike and not corner and "efficient" not in refused:
        path = "_scaled_dot_product_efficient_attention"
    elif on.math_sdp_enabled():
        path = "_scaled_dot_product_attention_math"
    else:
        raise RuntimeError("No available kernel. Aborting execution.")
    assert attn_mask is None or corner or isinstance(attn_mask, OnCard), "the mask is not on the GPU"
    Profile.card.ran.append(path)
    added = None if attn_mask is None or corner else attn_mask.numbers
    return OnCard(_attention(*map(_numbers, (query, key, value)), is_causal=is_causal or corner, added=added))


def _attention(query, key, value, *, is_causal, added=None):
    """Compute attention; heads are adjacent in memory, as the kernels return them."""
    groups = query.shape[1] // key.shape[1]
    near, far = (part.repeat_interleave(groups, 1).float() for part in (key, value))
    scores = query.float() @ near.transpose(2, 3) / query.shape[3] ** 0.5
    if is_causal:
        rows, columns = scores.shape[2:]
        scores = scores.masked_fill(torch.ones(rows, columns).tril(columns - rows) == 0, -torch.inf)
    if added is not None:
        scores = scores + added
    weights = scores.softmax(3).nan_to_num(nan=0.0)
    return (weights @ far).to(query.dtype).transpose(1, 2).contiguous().transpose(1, 2)


class Event:
    """An event; one millisecond passes from one record to the next."""

    count = 0

    def __init__(self, *, enable_timing: bool = False) -> None:
        self.timed, self.at = enable_timing, -1

    def record(self, stream: object = None) -> None:
        Event.count += 1
        self.at = Event.count

    def synchronize(self) -> None:
        assert self.at >= 0

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        assert self.timed
        assert other.timed
        return float(other.at - self.at)


class Profile:
    """A substitute for torch's profiler with its own signature: only Kineto sees kernels."""

    card: Card
    blind = False
    """Whether it sees no kernel even then, as if CUPTI is forbidden."""

    def __init__(self, **options: Any) -> None:
        bound = inspect.signature(REAL_PROFILE).bind(**options)
        bound.apply_defaults()
        self.kernels = bound.arguments["use_kineto"] and bound.arguments["use_device"] == "cuda" and not self.blind

    def __enter__(self) -> Self:
        self.begun = len(self.card.ran)
        return self

    def __exit__(self, *_: object) -> None:
        self.ran = list(dict.fromkeys(self.card.ran[self.begun :]))

    def key_averages(self) -> list[Any]:
        seen = [SimpleNamespace(key=f"aten::{name}", device_type=DeviceType.CPU) for name in self.ran]
        kernels = [KERNELS.get(name, f"void at::native::{name}_kernel(...)") for name in self.ran if self.kernels]
        return seen + [SimpleNamespace(key=name, device_type=DeviceType.CUDA) for name in kernels]


class Stream:
    """A stream whose work is done at the call: nothing waits."""

    def __init__(self, device: str = "cuda:0") -> None:
        assert torch.device(device) == DEVICE

    def wait_stream(self, other: object) -> None:
        assert isinstance(other, Stream)


class Graph:
    """A graph that repeats the captured calls with the same inputs and writes each result to its own place."""

    def replay(self) -> None:
        with _disable_current_modes():
            for func, args, kwargs, result in self.calls:
                result.copy_(func(*args, **kwargs))


@contextmanager
def _capture(graph: Graph) -> Iterator[None]:
    card = Profile.card
    card.captured = []
    yield
    graph.calls, card.captured = card.captured, None


@contextmanager
def _nothing(*_: object, **__: object) -> Iterator[None]:
    yield


@contextmanager
def pretend(monkeypatch: pytest.MonkeyPatch, *, memory: int = 24 << 30) -> Iterator[Card]:
    """Simulate one H200 with this much memory; its streams are those of the host."""
    Profile.card = card = Card()
    properties = SimpleNamespace(
        name="NVIDIA H200",
        total_memory=memory,
        L2_cache_size=60 << 20,
        multi_processor_count=2,
        uuid="0b6e1f58-4c0f-4d0c-9b1e-7a43c1d2aa01",
        pci_domain_id=0,
        pci_bus_id=0x1B,
        pci_device_id=0,
    )
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "_sleep": lambda cycles: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_properties": lambda _: properties,
        "get_device_capability": lambda _: (9, 0),
        "get_device_name": lambda _: properties.name,
        "mem_get_info": lambda _: (memory - (memory >> 5), memory),
        "memory_allocated": lambda _: 0,
        "max_memory_allocated": lambda _: 1 << 20,
        "reset_peak_memory_stats": lambda _: None,
        "synchronize": lambda _=None: None,
        "current_stream": lambda _=None: Stream(),
        "stream": _nothing,
        "device": _nothing,
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": _capture,
    }
    for name, answer in answers.items():
        assert hasattr(torch.cuda, name), f"torch.cuda has no {name}"
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.autograd.profiler, "profile", Profile)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    lower_right = bias.causal_lower_right

    def made_outside(*lengths: int) -> CausalBias:
        with _disable_current_modes():
            return lower_right(*lengths)

    monkeypatch.setattr(bias, "causal_lower_right", made_outside)
    with card:
        yield card

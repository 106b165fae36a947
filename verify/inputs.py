"""Test data: the same on every host and in every run, made on the CPU, so that no device has a say in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")


def normal(*shape: int, seed: int, dtype: str) -> Tensor:
    """Normally distributed numbers, rounded to the dtype."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


def rank_values(length: int, rank: int) -> Tensor:
    """Whole numbers that differ between processes; float32 holds their sums without rounding."""
    import torch

    return (torch.arange(length) * (rank + 3) % 4099 + rank).float()


def count_differences(one: Tensor, two: Tensor) -> int:
    """How many elements differ."""
    return int((one != two).sum())


def corrupt(result: Tensor) -> Tensor:
    """A copy in which the largest element is off by one part in a hundred."""
    spoiled = result.clone().flatten()
    place = spoiled.abs().argmax()
    spoiled[place] = spoiled[place] * 1.01
    return spoiled.reshape(result.shape)


def require_full_float32() -> None:
    """Have float32 products computed in float32, and parts of a split depth added in it, in this process.

    TF32 is what NVIDIA's own containers ask of torch by a variable (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE), and adding parts in
    16 bits is torch's default: either errs by more than float32 may, and a device that computes right would be called wrong.
    """
    import torch

    products = torch.backends.cuda.matmul
    products.allow_tf32 = False
    products.allow_bf16_reduced_precision_reduction = products.allow_fp16_reduced_precision_reduction = False


@contextmanager
def compute_in_input_precision(device: str) -> Iterator[None]:
    """Let torch's standard attention compute in the precision of its inputs on a GPU meanwhile.

    From 2.5 on torch converts 16 bits to 32 first by default (aten/native/transformers/attention.cpp): compared with that,
    flash attention looks faster and smaller than it is. Releases before compute in 16 bits and have no switch. A CPU keeps
    the default: most have no 16-bit products, and standard attention takes some ten times as long in them.
    """
    import torch

    switch = getattr(torch.backends.cuda, "allow_fp16_bf16_reduction_math_sdp", None)
    if switch is None or device == "cpu":
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    switch(True)
    try:
        yield
    finally:
        switch(before)


def synchronize(device: str) -> dict[str, Any]:
    """Wait for all work on a device by an event of its own, and say so; nothing to wait for on the CPU."""
    import torch

    if not device.startswith("cuda"):
        return {"device": device}
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    event.synchronize()
    return {"device": device, "name": torch.cuda.get_device_name(device), "event completed": event.query()}

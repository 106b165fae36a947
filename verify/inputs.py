"""Test data that is identical on every host and in every run; it is created on the CPU, so no device influences it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")


def normal(*shape: int, seed: int, dtype: str) -> Tensor:
    """Return normally distributed numbers, rounded to the dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


def rank_values(length: int, rank: int) -> Tensor:
    """Return whole numbers that differ between processes; float32 holds their sums exactly."""
    return (torch.arange(length) * (rank + 3) % 4099 + rank).float()


def count_differences(one: Tensor, two: Tensor) -> int:
    """Return the number of different elements."""
    return int((one != two).sum())


def corrupt(result: Tensor) -> Tensor:
    """Return a copy in which the largest element is off by one part in a hundred."""
    spoiled = result.clone().flatten()
    place = spoiled.abs().argmax()
    spoiled[place] = spoiled[place] * 1.01
    return spoiled.reshape(result.shape)


def require_full_float32() -> None:
    """Compute float32 products, and sums over a split depth, in full float32 in this process.

    NVIDIA's containers request TF32 by a variable (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE), and torch adds partial results in 16 bits by
    default. Both exceed the error bound of float32, so a correct device would fail.
    """
    products = torch.backends.cuda.matmul
    products.allow_tf32 = False
    products.allow_bf16_reduced_precision_reduction = products.allow_fp16_reduced_precision_reduction = False


@contextmanager
def compute_in_input_precision(device: str) -> Iterator[None]:
    """Let torch's standard attention compute in the precision of its inputs on a GPU.

    Since 2.5 torch converts 16 bits to 32 first by default (aten/native/transformers/attention.cpp). Compared with that,
    flash attention looks faster and smaller than it is. Older releases compute in 16 bits and have no switch. CPUs keep
    the default: most have no 16-bit products, and standard attention takes about ten times as long in them.
    """
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
    """Wait until a device has finished all work, and return the evidence. CPUs need no wait."""
    if not device.startswith("cuda"):
        return {"device": device}
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    event.synchronize()
    return {"device": device, "name": torch.cuda.get_device_name(device), "event completed": event.query()}

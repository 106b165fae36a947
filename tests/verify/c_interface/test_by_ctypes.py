"""The C interface by ctypes, on tensors of torch: results are those of the float64 reference, in every type and layout.

Run by tests/verify/test_c_interface.py, with a Python that has torch; FLASH_ATTN_LIBRARY names the library.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from verify.attention import cases

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = ["batch_length_heads", "batch_heads_length"]
HEADER = Path(__file__).resolve().parents[3] / "verify" / "cabi" / "flash_attn.h"
NO_MEMORY = 14


class Params(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_int64) for name in ("batch", "length", "heads", "head_size")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("causal", "dtype", "layout", "device", "device_index")),
        ("stream", ctypes.c_void_p),
        ("key_length", ctypes.c_int64),
        ("key_heads", ctypes.c_int64),
        ("mask", ctypes.c_void_p),
        ("mask_batch", ctypes.c_int64),
        ("mask_heads", ctypes.c_int64),
    ]


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(os.environ["FLASH_ATTN_LIBRARY"])
    loaded.flash_attn_last_error.restype = loaded.flash_attn_status_text.restype = ctypes.c_char_p
    return loaded


def drawn(seed: int, dtype: torch.dtype, layout: str, shape: tuple[int, int, int, int]) -> list[Tensor]:
    """Gradient of the output, query, key and value, contiguous in their layout."""
    batch, length, heads, size = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = (batch, length, heads, size) if layout == "batch_length_heads" else (batch, heads, length, size)
    return [torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]


def call(function: Callable[..., int], params: Params, *tensors: Tensor) -> int:
    return function(ctypes.byref(params), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors))


def params_of(dtype: torch.dtype, layout: str, shape: tuple[int, int, int, int], **others: float) -> Params:
    batch, length, heads, size = shape
    return Params(
        struct_size=ctypes.sizeof(Params),
        batch=batch,
        length=length,
        heads=heads,
        head_size=size,
        dtype=DTYPES.index(dtype),
        layout=LAYOUTS.index(layout),
        **others,
    )


BATCH, LENGTH = 2, 21
CORNER = 9
"""Keys before the first query, in a cache."""


def window(keys: int, *, before: int) -> Tensor:
    """A mask that lets a query see the keys up to its own place, and so many before it, (1, 1, queries, keys)."""
    place = torch.arange(LENGTH)[:, None] + keys - LENGTH - torch.arange(keys)
    return ((place >= 0) & (place <= before))[None, None]


def blocks() -> Tensor:
    """A mask of chosen blocks of 7 keys for blocks of 7 queries; the last block of queries sees nothing."""
    chosen = torch.tensor([[True, False, False], [True, False, True], [False, False, False]])
    return chosen.repeat_interleave(7, 0).repeat_interleave(7, 1)[None, None]


def some(batch: int, heads: int) -> Tensor:
    """A mask of its own for each sequence or each head, which leaves each query a key."""
    kept = torch.rand(batch, heads, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)) < 0.4
    return kept | torch.eye(LENGTH, dtype=torch.bool)


@dataclass(frozen=True)
class Kind:
    """One kind of attention; `keep` is which keys are seen."""

    queries: int = LENGTH
    keys: int = LENGTH
    heads: int = 4
    key_heads: int = 4
    size: int = 16
    keep: Tensor | None = None
    causal: bool = False
    scale: float = 0.0


KINDS = {
    "one number": Kind(1, 1, heads=1, key_heads=1, size=1),
    "many tokens": Kind(130, 130, size=64),
    "causal": Kind(130, 130, size=64, causal=True),
    "a scale of its own": Kind(33, 33, size=40, scale=0.25),
    "grouped heads": Kind(key_heads=2),
    "one head of keys": Kind(key_heads=1),
    "one token after a cache": Kind(1, 70, key_heads=2),
    "some tokens after a cache": Kind(
        keys=LENGTH + CORNER, key_heads=2, keep=window(LENGTH + CORNER, before=LENGTH + CORNER)
    ),
    "sliding window": Kind(keep=window(LENGTH, before=5)),
    "blocks": Kind(key_heads=2, keep=blocks()),
    "a mask for each sequence": Kind(keep=some(BATCH, 1)),
    "a mask for each head": Kind(key_heads=1, keep=some(1, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_attention_is_that_of_the_reference(
    library: ctypes.CDLL, *, layout: str, dtype: torch.dtype, kind: str
) -> None:
    one = KINDS[kind]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    shape = (BATCH, one.queries, one.heads, one.size)
    grad, query = drawn(7, dtype, layout, shape)[:2]
    key, value = drawn(8, dtype, layout, (BATCH, one.keys, one.key_heads, one.size))[:2]
    params = params_of(
        dtype,
        layout,
        shape,
        causal=int(one.causal),
        scale=one.scale,
        key_length=one.keys if one.keys != one.queries else 0,
        key_heads=one.key_heads if one.key_heads != one.heads else 0,
    )
    if one.keep is not None:
        mask = torch.zeros(one.keep.shape, dtype=wide).masked_fill(~one.keep, -math.inf)
        params.mask, params.mask_batch, params.mask_heads = mask.data_ptr(), mask.shape[0], mask.shape[1]
    found = [torch.full_like(part, math.nan) for part in (query, query, key, value)]
    sums = torch.full((BATCH, one.heads, one.queries), math.nan, dtype=wide)
    assert call(library.flash_attn_forward, params, query, key, value, found[0], sums) == 0
    assert call(library.flash_attn_backward, params, grad, query, key, value, found[0], sums, *found[1:]) == 0

    def heads_first(part: Tensor) -> Tensor:
        return part.transpose(1, 2) if layout == "batch_length_heads" else part

    inputs = [heads_first(part).double().requires_grad_() for part in (query, key, value)]
    out = cases.attention(*inputs, keep=one.keep, diagonal=0 if one.causal else None, scale=one.scale or None)
    exact = [out.detach(), *torch.autograd.grad(out, inputs, heads_first(grad).double())]
    bound = 1e-10 if dtype == torch.float64 else 16 * torch.finfo(dtype).eps
    for name, part, right in zip(("out", "grad_query", "grad_key", "grad_value"), found, exact, strict=True):
        error = float((heads_first(part).double() - right).abs().max() / right.abs().max().clamp_min(1e-2))
        assert error <= bound, name
    if one.keep is None and one.key_heads == one.heads:
        scores = (one.scale or 1 / math.sqrt(one.size)) * (inputs[0] @ inputs[1].transpose(2, 3)).detach()
        if one.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[2:], dtype=torch.bool).triu(1), -math.inf)
        right = scores.logsumexp(3)
        assert float((sums.double() - right).abs().max() / right.abs().max().clamp_min(1e-2)) <= bound, "logsumexp"


def test_memory_of_finished_calls_is_used_again(library: ctypes.CDLL) -> None:
    shape = (1, 1024, 8, 64)
    _, query, key, value = drawn(1, torch.float32, LAYOUTS[0], shape)
    out, params = torch.empty_like(query), params_of(torch.float32, LAYOUTS[0], shape)
    for _ in range(3):
        call(library.flash_attn_forward, params, query, key, value, out, out)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(40):
        call(library.flash_attn_forward, params, query, key, value, out, out)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * query.nbytes / 1024


TOO_LARGE = """
import ctypes, os, resource, sys
import torch
from tests.verify.c_interface.test_by_ctypes import LAYOUTS, call, params_of
library = ctypes.CDLL(os.environ["FLASH_ATTN_LIBRARY"])
library.flash_attn_last_error.restype = ctypes.c_char_p
one = torch.zeros(8)
resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
params = params_of(torch.float32, LAYOUTS[0], (1, 1 << 42, 1, 1))
print(call(library.flash_attn_forward, params, one, one, one, one, one), library.flash_attn_last_error().decode())
"""


def test_what_does_not_fit_into_memory_has_a_status_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], cwd=HEADER.parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    status, words = done.stdout.split(" ", 1)
    assert (int(status), "allocate" in words) == (NO_MEMORY, True)


def test_every_status_of_the_header_has_its_own_text(library: ctypes.CDLL) -> None:
    listed = HEADER.read_text().partition("enum flash_attn_status {")[2].partition("}")[0]
    values = [int(value) for value in re.findall(r"FLASH_ATTN_\w+ = (\d+)", listed)]
    statuses = range(max(values) + 1)
    assert len({library.flash_attn_status_text(status) for status in statuses}) == len(statuses) == 18
    assert library.flash_attn_status_text(len(statuses)) == b"unknown status"

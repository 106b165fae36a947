"""operators.vllm_cache: keys and values written to the cache."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.vllm import Call, OperatorProblem, OperatorSubject, operator_run

PAGES, PAGE, HEADS, SIZE = 41, 32, 3, 64
TOKENS = 400
STEP = 577
"""Positions are STEP apart and wrap around; STEP and the cache's length have no common factor, so none repeats."""
NOWHERE = -1
"""Position of a padding token, which must not be written."""
FILLER = 60.0
"""Content of positions that are not written."""
LATENT, ROTARY = 128, 64
"""Sizes of the two parts of a token's latent vector."""


def _slots() -> Tensor:
    slots = torch.arange(TOKENS) * STEP % (PAGES * PAGE)
    slots[::50] = NOWHERE
    return slots


def _written(tokens: Tensor) -> Tensor:
    """Return a (PAGES, PAGE, ...) cache with (TOKENS, ...) vectors, written by plain indexing."""
    cache = torch.full((PAGES * PAGE, *tokens.shape[1:]), FILLER, dtype=tokens.dtype)
    for token, slot in zip(tokens, _slots().tolist(), strict=True):
        if slot != NOWHERE:
            cache[slot] = token
    return cache.unflatten(0, (PAGES, PAGE))


def _pair(
    dtype: str,
    *,
    key: Callable[[Tensor], Tensor],
    value: Callable[[Tensor], Tensor],
    rest: Callable[[str], tuple[object, ...]],
) -> OperatorProblem:
    """Return the problem of an operator that writes keys and values.

    `key` and `value` convert a (pages, page, heads, dim) cache to their layouts, `rest` returns the further arguments.
    """
    parts = [normal(TOKENS, HEADS, SIZE, seed=seed, dtype=dtype) for seed in (80, 81)]
    expected = [layout(_written(part)).contiguous() for part, layout in zip(parts, (key, value), strict=True)]

    def compute(call: Call, device: str) -> Tensor:
        caches = [torch.full_like(one, FILLER, device=device) for one in expected]
        call(*(part.to(device) for part in parts), *caches, _slots().to(device), *rest(device))
        return torch.cat([one.flatten() for one in caches])

    return OperatorProblem(f"{TOKENS} tokens", compute, torch.cat([one.flatten() for one in expected]), dtype)


def _scales(device: str) -> tuple[object, ...]:
    one = torch.ones((), device=device)
    return "auto", one, one


def _by_token(cache: Tensor) -> Tensor:
    return cache


def _by_head(cache: Tensor) -> Tensor:
    """Convert to (pages, heads, page, dim), as CPU kernels store values."""
    return cache.transpose(1, 2)


def _by_element(cache: Tensor) -> Tensor:
    """Convert to (pages, heads, dim, page)."""
    return cache.permute(0, 2, 3, 1)


def _flat(cache: Tensor) -> Tensor:
    """Convert to the same layout in a tensor of the shape of values, as CPU kernels without tiles store keys."""
    return _by_element(cache).reshape(PAGES, HEADS, PAGE, SIZE)


def _by_chunk(cache: Tensor) -> Tensor:
    """Convert to (pages, heads, dim / x, page, x) with x elements of 16 bytes, as the first paged kernels store keys."""
    x = 16 // cache.element_size()
    return _by_element(cache).unflatten(2, (-1, x)).transpose(3, 4)


def _joint(dtype: str, *, rest: Callable[[str], tuple[object, ...]]) -> OperatorProblem:
    """Return the problem of an operator that writes the two parts of a latent vector one after the other."""
    latent, rotary = normal(TOKENS, LATENT, seed=82, dtype=dtype), normal(TOKENS, ROTARY, seed=83, dtype=dtype)
    expected = _written(torch.cat([latent, rotary], dim=1))

    def compute(call: Call, device: str) -> Tensor:
        cache = torch.full_like(expected, FILLER, device=device)
        call(latent.to(device), rotary.to(device), cache, _slots().to(device), *rest(device))
        return cache

    return OperatorProblem(f"{TOKENS} tokens", compute, expected, dtype)


run = operator_run(
    # AMX tiles have another layout, which is checked with the attention that reads it.
    OperatorSubject("cpu_attn_reshape_and_cache", partial(_pair, key=_flat, value=_by_head, rest=lambda _: ("vec",))),
    OperatorSubject("reshape_and_cache_flash", partial(_pair, key=_by_token, value=_by_token, rest=_scales)),
    OperatorSubject("reshape_and_cache", partial(_pair, key=_by_chunk, value=_by_element, rest=_scales)),
    OperatorSubject("concat_and_cache_mla", partial(_joint, rest=lambda device: _scales(device)[:2])),
    OperatorSubject("concat_and_cache_mla_cpu", partial(_joint, rest=lambda _: ()), dtypes=("bfloat16",)),
)

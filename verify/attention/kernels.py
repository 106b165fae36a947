"""Kernels for the attention of an upgraded model, in order of preference; the first one that supports a problem runs."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from verify.attention import reference

PACKAGE_DIMS = 256
"""Largest head dimension of flash-attn (2.8.3.post2, csrc/flash_attn/flash_api.cpp)."""


@dataclass(frozen=True)
class AttentionProblem:
    """One attention call. Tensors are (batch, heads, length, dim); masks broadcast to (batch, heads, queries, keys).

    `keep` is true where a query sees a key, `bias` is added to the scores; at most one of them is set. `causal` aligns
    to the top left, as in torch, and excludes a mask.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    keep: Tensor | None = None
    bias: Tensor | None = None
    causal: bool = False
    dropout: float = 0.0


@dataclass(frozen=True)
class Kernel:
    """A kernel. `refuses` returns why it does not support a problem, None if it does."""

    refuses: Callable[[AttentionProblem], str | None]
    compute: Callable[[AttentionProblem], Tensor]


def attend(problem: AttentionProblem, names: Sequence[str]) -> tuple[Tensor, str]:
    """Compute a problem with the first of the named kernels that supports it; return the result and the kernel's name.

    Raises ValueError with the reason of each where none does.
    """
    reasons = {}
    for name in names:
        reasons[name] = KERNELS[name].refuses(problem)
        if reasons[name] is None:
            return KERNELS[name].compute(problem), name
    details = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ValueError(f"no kernel supports this attention: {details}")


@cache
def package_problem() -> str | None:
    """Return why flash-attn cannot be used in this environment, None if it can."""
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    try:
        importlib.import_module("flash_attn").flash_attn_func  # noqa: B018 - whether it is there is the question
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"flash-attn does not import: {error}"
    return None


def _package_refuses(problem: AttentionProblem) -> str | None:
    query, key = problem.query, problem.key
    if query.device.type != "cuda":
        return "no GPU tensor"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"{query.dtype} does not have 16 bits"
    if problem.keep is not None or problem.bias is not None:
        return "it supports no mask"
    if problem.causal and query.shape[2] != key.shape[2]:
        return "it aligns the causal mask to the bottom right"
    if query.shape[3] > PACKAGE_DIMS or query.shape[3] % 8:
        return f"head dimension {query.shape[3]}"
    return package_problem()


def _package(problem: AttentionProblem) -> Tensor:
    parts = (part.transpose(1, 2) for part in (problem.query, problem.key, problem.value))
    call = importlib.import_module("flash_attn").flash_attn_func
    result: Tensor = call(*parts, dropout_p=problem.dropout, causal=problem.causal)
    return result.transpose(1, 2)


def _sdpa(problem: AttentionProblem) -> Tensor:
    mask = problem.keep if problem.bias is None else problem.bias
    return functional.scaled_dot_product_attention(
        problem.query, problem.key, problem.value, attn_mask=mask, dropout_p=problem.dropout, is_causal=problem.causal
    )


def _tiled(problem: AttentionProblem) -> Tensor:
    diagonal = 0 if problem.causal else None
    result = reference.attention(
        problem.query, problem.key, problem.value, diagonal=diagonal, keep=problem.keep, bias=problem.bias
    )
    return result.to(problem.query.dtype)


KERNELS: Mapping[str, Kernel] = {
    "flash_attn": Kernel(_package_refuses, _package),
    "sdpa": Kernel(lambda _: None, _sdpa),
    "reference": Kernel(lambda problem: "it has no dropout" if problem.dropout else None, _tiled),
}
"""In order of preference. torch itself chooses among its flash, memory efficient and plain paths."""

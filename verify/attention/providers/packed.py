"""Providers that take packed queries or torch's dense ones: flash-attn's functions (the packages' own of generations 2 to 4, vLLM's and AITER's), and torch's paths."""

import atexit
import importlib
import os
import shutil
import tempfile
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider, cache, import_problem, page_table, sequence_starts
from verify.tables import table


def _compute_flash(name: str, case: Case, inputs: Inputs) -> Tensor:
    """Compute a case as the back end of vLLM does: packed queries, packed or paged keys; the packages' dense ones as models do."""
    row = table("attention")["provider"][name]
    module = importlib.import_module(row["module"])
    query, key, value = inputs
    arguments: dict[str, Any] = {"causal": case.causal}
    if case.window is not None:
        arguments["window_size"] = (case.window, 0 if case.causal else -1)
    if case.softcap:
        arguments["softcap"] = case.softcap
    if (slopes := case.slopes()) is not None:
        arguments["alibi_slopes"] = slopes.to(query.device)
    if "package" in row and case.dense:
        parts = [part.unflatten(0, (len(case.sequences), -1)) for part in inputs]
        return _first(module.flash_attn_func(*parts, **arguments)).flatten(0, 1)
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    arguments |= {"cu_seqlens_q": sequence_starts(queries, query.device)}
    arguments |= {"max_seqlen_q": max(queries), "max_seqlen_k": max(keys)}
    if "generation" in row:
        arguments["fa_version"] = row["generation"]
    if case.page is None:
        arguments["cu_seqlens_k"] = sequence_starts(keys, query.device)
    else:
        pages = page_table(keys, case.page, query.device)
        key, value = (cache(part, keys, pages, case.page) for part in (key, value))
        lengths = torch.tensor(keys, dtype=torch.int32, device=query.device)
        arguments |= {row.get("pages", "block_table"): pages, "seqused_k": lengths}
    return _first(module.flash_attn_varlen_func(query, key, value, **arguments))


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the result only: generations 3 and 4 also return the logarithms of the sums in some releases."""
    return result[0] if isinstance(result, tuple) else result


def keep_kernels_apart() -> None:
    """Let AITER, which compiles its kernels at first use, put them into a folder of this process, never into the environment."""
    if "AITER_JIT_DIR" not in os.environ:
        os.environ["AITER_JIT_DIR"] = tempfile.mkdtemp(prefix="firstlight-aiter-")
        atexit.register(shutil.rmtree, os.environ["AITER_JIT_DIR"], ignore_errors=True)


def _prepare_aiter() -> str | None:
    keep_kernels_apart()
    return import_problem(AITER.row)


PACKAGES, VLLM = (
    tuple(Provider(f"{kind}_{generation}", partial(_compute_flash, f"{kind}_{generation}")) for generation in (2, 3, 4))
    for kind in ("flash_attn", "vllm_flash")
)
"""Generations 2, 3 and 4 of each."""


AITER = Provider("aiter_flash", partial(_compute_flash, "aiter_flash"), _prepare_aiter)


SHARES_HEADS = frozenset({"FLASH_ATTENTION", "MATH"})
"""Paths that accept fewer key heads than query heads; for the others the heads are repeated."""


def _compute_torch(path: str, case: Case, inputs: Inputs) -> Tensor:
    """Compute a case. Raises RuntimeError if the path does not support it."""
    query, key, value = (part.unflatten(0, (len(case.sequences), -1)).transpose(1, 2) for part in inputs)
    shared = case.heads != case.key_heads
    if shared and path not in SHARES_HEADS:
        key, value = (part.repeat_interleave(case.heads // case.key_heads, dim=1) for part in (key, value))
        shared = False
    square = case.causal and not case.required_features
    mask = None if square else _mask(path, case, query)
    with sdpa_kernel(getattr(SDPBackend, path)):
        result = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=square, enable_gqa=shared
        )
    return result.transpose(1, 2).flatten(0, 1)


def _mask(path: str, case: Case, query: Tensor) -> Tensor | None:
    """Return the mask. On GPUs the flash kernels take no mask, but a type of its own for the bottom-right diagonal."""
    queries, keys = case.sequences[0]
    if path == "FLASH_ATTENTION" and query.device.type != "cpu" and case.required_features == {"corner"}:
        from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415 - imports torch's compiler, which takes seconds

        corner: Tensor = causal_lower_right(queries, keys)
        return corner
    bias = case.bias(queries, keys)
    return None if bias is None else bias.to(query)[None]


FLASH = Provider("sdpa_flash", partial(_compute_torch, "FLASH_ATTENTION"))
EFFICIENT = Provider("sdpa_efficient", partial(_compute_torch, "EFFICIENT_ATTENTION"))
CUDNN = Provider("sdpa_cudnn", partial(_compute_torch, "CUDNN_ATTENTION"))
MATH = Provider("sdpa_math", partial(_compute_torch, "MATH"))

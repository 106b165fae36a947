"""vLLM's own attention on AMD cards: prefill in Triton, decoding of single queries in HIP or Triton."""

from __future__ import annotations

import importlib
import math

import torch
from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider
from verify.attention.providers.layout import cache, page_table, sequence_starts

PAGE = 16
"""Tokens per page where a case has no pages: vLLM's default on cards."""
VECTOR_BYTES = 16
"""Bytes of a key that lie together in the cache (vllm 0.32.0, v1/attention/ops/paged_attn.py)."""


def _compute(case: Case, inputs: Inputs) -> Tensor:
    module = importlib.import_module(PAGED.row["module"])
    query, key, value = inputs.parts
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    page = case.page or PAGE
    table = page_table(keys, page, query.device)
    together = VECTOR_BYTES // key.element_size()
    stored = cache(key, keys, table, page).unflatten(-1, (-1, together))
    new = [
        torch.cat([rows[len(rows) - count :] for rows, count in zip(part.split(keys), queries, strict=True)])
        for part in (key, value)
    ]
    result = torch.empty_like(query)
    one = torch.ones((), device=query.device)
    module.chunked_prefill_paged_decode(
        query=query,
        key=new[0],
        value=new[1],
        output=result,
        kv_cache_dtype="auto",
        key_cache=stored.permute(0, 2, 3, 1, 4).contiguous(),
        value_cache=cache(value, keys, table, page).permute(0, 2, 3, 1).contiguous(),
        block_table=table,
        query_start_loc=sequence_starts(queries, query.device),
        seq_lens=torch.tensor(keys, dtype=torch.int32, device=query.device),
        max_seq_len=max(keys),
        max_query_len=max(queries),
        k_scale=one,
        v_scale=one,
        sm_scale=1 / math.sqrt(case.dim),
    )
    return result


PAGED = Provider("vllm_rocm", _compute)

"""vLLM's own flash attention kernels, called as its back end does: packed queries, packed or paged keys."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider
from verify.attention.providers.layout import cache, page_table, sequence_starts


def _compute(generation: int, case: Case, inputs: Inputs) -> Tensor:
    call = importlib.import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
    query, key, value = inputs.parts
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    arguments: dict[str, Any] = {
        "max_seqlen_q": max(queries),
        "cu_seqlens_q": sequence_starts(queries, query.device),
        "max_seqlen_k": max(keys),
        "causal": case.causal,
        "fa_version": generation,
    }
    if case.page is None:
        arguments["cu_seqlens_k"] = sequence_starts(keys, query.device)
    else:
        table = page_table(keys, case.page, query.device)
        key, value = (cache(part, keys, table, case.page) for part in (key, value))
        lengths = torch.tensor(keys, dtype=torch.int32, device=query.device)
        arguments |= {"block_table": table, "seqused_k": lengths}
    if case.window is not None:
        arguments["window_size"] = [case.window, 0 if case.causal else -1]
    if case.softcap:
        arguments["softcap"] = case.softcap
    slopes = case.slopes()
    if slopes is not None:
        arguments["alibi_slopes"] = slopes.to(query.device)
    result: Tensor = call(query, key, value, **arguments)
    return result


TWO, THREE, FOUR = (Provider(f"vllm_flash_{generation}", partial(_compute, generation)) for generation in (2, 3, 4))

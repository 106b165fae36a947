"""AITER's flash attention on AMD cards, called as vLLM's back end calls it: packed queries and keys."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile

from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider, import_problem
from verify.attention.providers.layout import sequence_starts


def _compute(case: Case, inputs: Inputs) -> Tensor:
    call = importlib.import_module("aiter").flash_attn_varlen_func
    query, key, value = inputs.parts
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    result: Tensor = call(
        q=query,
        k=key,
        v=value,
        cu_seqlens_q=sequence_starts(queries, query.device),
        cu_seqlens_k=sequence_starts(keys, query.device),
        max_seqlen_q=max(queries),
        max_seqlen_k=max(keys),
        causal=case.causal,
    )
    return result


def keep_kernels_apart() -> None:
    """Let AITER, which compiles its kernels at first use, put them into a folder of this process, never into the environment."""
    if "AITER_JIT_DIR" not in os.environ:
        os.environ["AITER_JIT_DIR"] = tempfile.mkdtemp(prefix="firstlight-aiter-")
        atexit.register(shutil.rmtree, os.environ["AITER_JIT_DIR"], ignore_errors=True)


def _prepare() -> str | None:
    keep_kernels_apart()
    return import_problem(FLASH.row)


FLASH = Provider("aiter_flash", _compute, _prepare)

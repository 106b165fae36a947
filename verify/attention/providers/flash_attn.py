"""The flash-attn packages: generation 2 (`flash_attn`), 3 (`flash_attn_interface`) and 4 (`flash_attn.cute`)."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from torch import Tensor

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider
from verify.attention.providers.layout import sequence_starts
from verify.tables import table


def _compute(name: str, case: Case, inputs: Inputs) -> Tensor:
    module = importlib.import_module(table("attention")["provider"][name]["module"])
    arguments: dict[str, Any] = {"causal": case.causal}
    if case.window is not None:
        arguments["window_size"] = (case.window, 0 if case.causal else -1)
    if case.softcap:
        arguments["softcap"] = case.softcap
    slopes = case.slopes()
    if slopes is not None:
        arguments["alibi_slopes"] = slopes.to(inputs.query.device)
    if case.dense:
        parts = [part.unflatten(0, (len(case.sequences), -1)) for part in inputs.parts]
        return _first(module.flash_attn_func(*parts, **arguments)).flatten(0, 1)
    queries, keys = (list(lengths) for lengths in zip(*case.sequences, strict=True))
    arguments |= {
        "cu_seqlens_q": sequence_starts(queries, inputs.query.device),
        "cu_seqlens_k": sequence_starts(keys, inputs.query.device),
        "max_seqlen_q": max(queries),
        "max_seqlen_k": max(keys),
    }
    return _first(module.flash_attn_varlen_func(*inputs.parts, **arguments))


def _first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the result only: generations 3 and 4 also return the logarithms of the sums in some releases."""
    return result[0] if isinstance(result, tuple) else result


TWO, THREE, FOUR = (
    Provider(f"flash_attn_{generation}", partial(_compute, f"flash_attn_{generation}")) for generation in (2, 3, 4)
)

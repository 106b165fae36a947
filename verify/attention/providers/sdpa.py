"""torch's scaled dot product attention with a single path enabled."""

from functools import partial

from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from verify.attention.cases import Case, Inputs
from verify.attention.providers import Provider

SHARES_HEADS = frozenset({"FLASH_ATTENTION", "MATH"})
"""Paths that accept fewer key heads than query heads; for the others the heads are repeated."""


def _compute(path: str, case: Case, inputs: Inputs) -> Tensor:
    """Compute a case. Raises RuntimeError if the path does not support it."""
    query, key, value = (part.unflatten(0, (len(case.sequences), -1)).transpose(1, 2) for part in inputs.parts)
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


FLASH = Provider("sdpa_flash", partial(_compute, "FLASH_ATTENTION"))
EFFICIENT = Provider("sdpa_efficient", partial(_compute, "EFFICIENT_ATTENTION"))
CUDNN = Provider("sdpa_cudnn", partial(_compute, "CUDNN_ATTENTION"))
MATH = Provider("sdpa_math", partial(_compute, "MATH"))

"""Flash attention for your own models: a drop-in replacement of torch.nn.MultiheadAttention, and its kernels.

    from verify.attention import upgrade_attention, restore_attention

    upgrade_attention(model)      # every torch.nn.MultiheadAttention in it, in place
    restore_attention(model)      # back to torch's own

Parameters, their names, hooks, optimizers and the identity of modules stay: only the class of a module changes. The
repository and verify.pyz (on PYTHONPATH) provide this module. It requires torch.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKAGE_DIMS = 256
"""Largest head dimension of flash-attn (2.8.3.post2, csrc/flash_attn/flash_api.cpp)."""


@cache
def has_package() -> bool:
    """Return whether flash-attn imports in this environment."""
    try:
        importlib.import_module("flash_attn").flash_attn_func  # noqa: B018 - whether it is there is the question
    except (ImportError, OSError, RuntimeError, AttributeError):
        return False
    return True


def suits_package(query: Tensor, key: Tensor, *, causal: bool) -> bool:
    """Return whether flash-attn computes these tensors without a mask: in 16 bits on a GPU. It aligns causal masks to the bottom right."""
    on_gpu = query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16)
    fits = query.shape[3] <= PACKAGE_DIMS and query.shape[3] % 8 == 0
    return on_gpu and fits and (not causal or query.shape[2] == key.shape[2]) and has_package()


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool, dropout: float
) -> tuple[Tensor, str]:
    """Compute attention by flash-attn where it can, else by torch's choice of its kernels; return the result and which of them computed.

    Tensors are (batch, heads, length, dim). The mask is true where a query sees a key, or is added to the scores; it broadcasts to
    (batch, heads, queries, keys). `causal` aligns to the top left, as in torch, and excludes a mask.
    """
    if mask is None and suits_package(query, key, causal=causal):
        parts = (part.transpose(1, 2) for part in (query, key, value))
        call = importlib.import_module("flash_attn").flash_attn_func
        return call(*parts, dropout_p=dropout, causal=causal).transpose(1, 2), "flash_attn"
    result = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )
    return result, "sdpa"


class FlashMultiheadAttention(nn.MultiheadAttention):  # type: ignore[misc]
    """torch.nn.MultiheadAttention computed by flash kernels, with the same arguments, parameters and results.

    Flash kernels cannot return attention weights. Where the caller asks for them (torch's default), torch's own code computes,
    as it does for nested tensors, `add_bias_kv` and `add_zero_attn`. With `discard_weights`, None is returned in place of the
    weights, for models that do not use them.
    """

    discard_weights: bool = False
    used: str | None = None
    """What computed the last call: `flash_attn`, `sdpa`, or `torch` for torch's own code."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _enter(self)

    @classmethod
    def without_weights(cls, *arguments: Any, **options: Any) -> FlashMultiheadAttention:
        """Build one with `discard_weights`, from the arguments of torch.nn.MultiheadAttention."""
        made = cls(*arguments, **options)
        made.discard_weights = True
        return made

    def forward(  # noqa: PLR0917 - torch's own signature
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention as torch.nn.MultiheadAttention.forward does. Raises ValueError for `is_causal` without a mask."""
        special = query.is_nested or self.bias_k is not None or self.add_zero_attn
        if special or (need_weights and not self.discard_weights):
            self.used = "torch"
            answer: tuple[Tensor, Tensor | None] = super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal,
            )
            return answer
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask: pass the mask as well, as torch requires")
        batched = query.dim() == 3
        if not batched:
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        parts = self._project(*self._batch_first(query, key, value))
        heads = [part.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for part in parts]
        causal = is_causal and key_padding_mask is None
        mask = None if causal else self._mask(attn_mask, key_padding_mask, heads[0])
        dropout = self.dropout if self.training else 0.0
        result, self.used = attend(heads[0], heads[1], heads[2], mask, causal=causal, dropout=dropout)
        joined = functional.linear(result.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if not batched:
            return joined[0], None
        return (joined if self.batch_first else joined.transpose(0, 1)), None

    def _batch_first(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return each tensor as (batch, length, dim); identical tensors stay identical."""
        if parts[0].dim() == 3 and self.batch_first:
            return parts
        moved = {id(part): part[None] if part.dim() == 2 else part.transpose(0, 1) for part in parts}
        return tuple(moved[id(part)] for part in parts)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if not self._qkv_same_embed_dim:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        elif query is key and key is value:
            joined = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
            return tuple(joined.chunk(3, dim=-1))
        else:
            weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return tuple(
            functional.linear(part, weight, bias)
            for part, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, query: Tensor) -> Tensor | None:
        """Return which keys a query sees, or what is added to its scores. True in torch's masks means hidden."""
        masks = []
        if attn_mask is not None:
            # (queries, keys), or one mask per sequence and head, one after the other
            of_all = attn_mask.dim() == 2
            masks.append(attn_mask[None, None] if of_all else attn_mask.unflatten(0, (-1, self.num_heads)))
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        if not masks:
            return None
        if all(mask.dtype == torch.bool for mask in masks):
            hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
            return ~hidden
        added = [
            torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, float("-inf"))
            if mask.dtype == torch.bool
            else mask
            for mask in masks
        ]
        return (added[0] if len(added) == 1 else added[0] + added[1]).to(query.dtype)


def torch_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return every torch.nn.MultiheadAttention of a model by its name, without subclasses, which may change the meaning."""
    return {name: module for name, module in model.named_modules() if type(module) is nn.MultiheadAttention}


def upgrade_attention(model: nn.Module, *, discard_weights: bool = False) -> list[str]:
    """Turn every torch.nn.MultiheadAttention of a model, including the model itself, into a FlashMultiheadAttention, in place.

    Other subclasses stay, because they may change the meaning. Returns the names of the modules in the model.
    """
    found = torch_layers(model)
    for module in found.values():
        module.__class__ = FlashMultiheadAttention
        module.discard_weights = discard_weights
        _enter(module)
    return list(found)


def restore_attention(model: nn.Module) -> list[str]:
    """Undo `upgrade_attention`: turn every FlashMultiheadAttention of a model back into torch's class, in place."""
    found = {name: module for name, module in model.named_modules() if type(module) is FlashMultiheadAttention}
    for module in found.values():
        module.__dict__.pop("_entered").remove()
        for name in ("discard_weights", "used"):
            module.__dict__.pop(name, None)
        module.__class__ = nn.MultiheadAttention
    return list(found)


def _enter(module: nn.Module) -> None:
    """Do nothing. torch.nn.TransformerEncoderLayer bypasses a module without hooks and computes the attention itself."""
    module.__dict__["_entered"] = module.register_forward_pre_hook(_pass)


def _pass(_module: nn.Module, _arguments: Any) -> None:
    return None

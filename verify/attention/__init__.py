"""Attention: the layers for your own models, and what the checks of attention share. It requires torch.

from verify.attention import upgrade_attention, restore_attention
"""

import torch
from torch import nn

from verify.attention.layers import FlashMultiheadAttention, has_package, restore_attention, upgrade_attention

__all__ = [
    "FlashAttention2Module",
    "FlashMultiheadAttention",
    "is_flash_attention_available",
    "restore_attention",
    "upgrade_attention",
    "upgrade_transformer_attention",
]

FlashAttention2Module = FlashMultiheadAttention
"""The name that the first description of this product gave it."""


def is_flash_attention_available() -> bool:
    """Return whether flash-attn imports and there is a GPU for it. Without it, torch's own kernels compute."""
    return torch.cuda.is_available() and has_package()


def upgrade_transformer_attention(model: nn.Module, *, use_flash_attention: bool = True) -> nn.Module:
    """Upgrade a model's attention in place, or restore torch's own, and return the model.

    A call for which no flash kernel is available is computed by torch.
    """
    (upgrade_attention if use_flash_attention else restore_attention)(model)
    return model

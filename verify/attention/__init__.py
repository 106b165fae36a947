"""Attention: the layers for your own models, and what the checks of attention share. It requires torch.

from verify.attention import upgrade_attention, restore_attention
"""

from verify.attention.layers import FlashMultiheadAttention, restore_attention, upgrade_attention

__all__ = ["FlashMultiheadAttention", "restore_attention", "upgrade_attention"]

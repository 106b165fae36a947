"""Attention: the layers for your own models, and what the checks of attention share.

from verify.attention import upgrade_attention, restore_attention
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.attention.layers import FlashMultiheadAttention, restore_attention, upgrade_attention

__all__ = ["FlashMultiheadAttention", "restore_attention", "upgrade_attention"]


def __getattr__(name: str) -> Any:
    """Return a layer or a function of models: they need torch, and the checks beside them do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("verify.attention.layers"), name)

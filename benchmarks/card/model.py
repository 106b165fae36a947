"""The model whose attention `verify upgrade` upgrades on a card's day: an encoder whose attention dominates it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, LAYERS, BATCH, LENGTH = (768, 12, 2, 2, 2048) if torch.cuda.is_available() else (64, 4, 1, 1, 64)
"""It is compared with float64 including gradients, which takes some 5 GB on a card."""


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        normed = self.norm(inputs)
        result: Tensor = inputs + self.attention(normed, normed, normed, need_weights=True)[0]
        return result


def encoder() -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a model that requests weights of attention without using them, so that torch computes them; an upgrade avoids that."""
    torch.manual_seed(2)
    return nn.Sequential(*(Block() for _ in range(LAYERS))), (torch.randn(BATCH, LENGTH, WIDTH),)

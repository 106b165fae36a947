"""Attention in float64, tile by tile: what every kernel is measured against.

The softmax is taken online: each tile of keys updates a running maximum, a running sum and a running weighted sum, so
that no row of scores ever stands in memory as a whole, and the block size changes nothing but the order of additions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def bottom_right(queries: int, keys: int) -> int:
    """The diagonal that lets the last query see every key: how a cache of keys is attended to causally."""
    return keys - queries


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    diagonal: int | None = None,
    keep: Tensor | None = None,
    scale: float | None = None,
    block: int = 128,
) -> Tensor:
    """Scaled dot product attention of (batch, heads, length, dim) tensors, in float64 on the query's device.

    Keys and values may have fewer heads than the queries; equal groups of query heads then share one (GQA). Query i sees
    key j when j <= i + diagonal (null: all; 0: causal from the top left; see `bottom_right`) and where `keep`, which
    broadcasts to (batch, heads, queries, keys), is true. A query that sees no key gives zeros. `scale` is 1 / sqrt(dim)
    when it is null. Raises ValueError when the heads do not divide.
    """
    import torch

    batch, heads, queries, dim = query.shape
    keys = key.shape[2]
    if heads % key.shape[1]:
        raise ValueError(f"{heads} query heads cannot share {key.shape[1]} key heads equally")
    scaled = query.double() * (1 / math.sqrt(dim) if scale is None else scale)
    key, value = (part.double().repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    if keep is not None:
        keep = keep.expand(batch, heads, queries, keys)
    result = torch.empty(batch, heads, queries, value.shape[3], dtype=torch.float64, device=query.device)
    for top in range(0, queries, block):
        rows = slice(top, min(top + block, queries))
        result[:, :, rows] = _rows(scaled, key, value, rows=rows, diagonal=diagonal, keep=keep, block=block)
    return result


def _rows(
    query: Tensor, key: Tensor, value: Tensor, *, rows: slice, diagonal: int | None, keep: Tensor | None, block: int
) -> Tensor:
    """The result for one tile of queries, over all tiles of keys that it sees any part of."""
    import torch

    tile = query[:, :, rows]
    highest = torch.full((*tile.shape[:3], 1), -math.inf, dtype=torch.float64, device=tile.device)
    total = torch.zeros_like(highest)
    weighted = torch.zeros(*tile.shape[:3], value.shape[3], dtype=torch.float64, device=tile.device)
    end = key.shape[2] if diagonal is None else max(0, min(key.shape[2], rows.stop + diagonal))
    for left in range(0, end, block):
        columns = slice(left, min(left + block, end))
        scores = tile @ key[:, :, columns].transpose(2, 3)
        if diagonal is not None:
            row = torch.arange(rows.start, rows.stop, device=tile.device)[:, None]
            column = torch.arange(columns.start, columns.stop, device=tile.device)[None, :]
            scores = scores.masked_fill(column > row + diagonal, -math.inf)
        if keep is not None:
            scores = scores.masked_fill(~keep[:, :, rows, columns], -math.inf)
        new = torch.maximum(highest, scores.amax(dim=3, keepdim=True))
        level = new.masked_fill(new == -math.inf, 0.0)  # nothing seen yet: keep -inf - -inf out of the exponent
        shrink = torch.exp(highest - level)
        weights = torch.exp(scores - level)
        total = total * shrink + weights.sum(dim=3, keepdim=True)
        weighted = weighted * shrink + weights @ value[:, :, columns]
        highest = new
    return torch.where(total > 0, weighted / total.clamp_min(1e-300), 0.0)

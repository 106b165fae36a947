"""Attention in float64, tile by tile: what every kernel is measured against.

The softmax is taken online: each tile of keys updates a running maximum, a running sum and a running weighted sum, so
that no row of scores ever stands in memory as a whole, and the block size changes nothing but the order of additions.
Every step can be differentiated, so the gradients of the reference come from torch's autograd, in float64 as well.
The exponential is made of powers of two: torch's own is what `operators.exp` judges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """What a score becomes before the softmax, and which keys a query sees.

    Query i sees key j when i + first <= j <= i + diagonal (null: no bound; diagonal 0: causal from the top left, see
    `bottom_right`) and where `keep`, which broadcasts to (batch, heads, queries, keys), is true. A score s becomes
    cap tanh(s / cap) when `softcap` is above zero; then slope |i + keys - queries - j| is taken off it, with one slope a
    query head (ALiBi), and `bias`, which broadcasts as `keep` does, is put on it. `scale` is 1 / sqrt(dim) when it is null.
    """

    diagonal: int | None = None
    first: int | None = None
    keep: Tensor | None = None
    scale: float | None = None
    softcap: float = 0.0
    slopes: Tensor | None = None
    bias: Tensor | None = None

    def columns(self, rows: slice, keys: int) -> tuple[int, int]:
        """The range of keys that any query of a tile may see."""
        end = keys if self.diagonal is None else max(0, min(keys, rows.stop + self.diagonal))
        begin = 0 if self.first is None else max(0, min(end, rows.start + self.first))
        return begin, end

    def apply(self, scores: Tensor, rows: slice, columns: slice, *, offset: int) -> Tensor:
        """The scores of a tile as the softmax takes them: minus infinity where a key is not seen."""
        import torch

        if self.softcap > 0:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        row = torch.arange(rows.start, rows.stop, device=scores.device)[:, None]
        column = torch.arange(columns.start, columns.stop, device=scores.device)[None, :]
        if self.slopes is not None:
            scores = scores - self.slopes.double()[:, None, None] * (row + offset - column).abs()
        if self.bias is not None:
            scores = scores + self.bias[:, :, rows, columns]
        if self.diagonal is not None:
            scores = scores.masked_fill(column > row + self.diagonal, -math.inf)
        if self.first is not None:
            scores = scores.masked_fill(column < row + self.first, -math.inf)
        if self.keep is not None:
            scores = scores.masked_fill(~self.keep[:, :, rows, columns], -math.inf)
        return scores


def bottom_right(queries: int, keys: int) -> int:
    """The diagonal that lets the last query see every key: how a cache of keys is attended to causally."""
    return keys - queries


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    diagonal: int | None = None,
    first: int | None = None,
    keep: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
    block: int = 128,
) -> Tensor:
    """Scaled dot product attention of (batch, heads, length, dim) tensors, in float64 on the query's device.

    Keys and values may have fewer heads than the queries; equal groups of query heads then share one (GQA). The other
    arguments are those of `Rule`. A query that sees no key gives zeros. Raises ValueError when the heads do not divide.
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
    if bias is not None:
        bias = bias.double().expand(batch, heads, queries, keys)
    rule = Rule(diagonal, first, keep, scale, softcap, slopes, bias)
    tiles = [slice(top, min(top + block, queries)) for top in range(0, queries, block)]
    return torch.cat([_rows(scaled, key, value, rows=rows, rule=rule, block=block) for rows in tiles], dim=2)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    *,
    causal: bool = False,
    window: int | None = None,
    softcap: float = 0.0,
    slopes: Tensor | None = None,
    block: int = 128,
) -> Tensor:
    """Attention of sequences of different lengths that lie one behind the other in (tokens, heads, dim) tensors.

    `causal` aligns to the bottom right of each sequence; `window` is how many keys before its own place a query sees at
    most. Gives (tokens, heads, dim). Raises ValueError when the lengths are not those of the tensors.
    """
    import torch

    if sum(query_lengths) != query.shape[0] or sum(key_lengths) != key.shape[0]:
        raise ValueError(
            f"lengths of {sum(query_lengths)} queries and {sum(key_lengths)} keys for {query.shape[0]} and {key.shape[0]}"
        )
    parts = []
    for one, two, three in zip(
        query.split(list(query_lengths)), key.split(list(key_lengths)), value.split(list(key_lengths)), strict=True
    ):
        corner = bottom_right(one.shape[0], two.shape[0])
        result = attention(
            *(part.transpose(0, 1)[None] for part in (one, two, three)),
            diagonal=corner if causal else None,
            first=None if window is None else corner - window,
            softcap=softcap,
            slopes=slopes,
            block=block,
        )
        parts.append(result[0].transpose(0, 1))
    return torch.cat(parts)


def _rows(query: Tensor, key: Tensor, value: Tensor, *, rows: slice, rule: Rule, block: int) -> Tensor:
    """The result for one tile of queries, over all tiles of keys that it sees any part of."""
    import torch

    tile, offset = query[:, :, rows], key.shape[2] - query.shape[2]
    highest = torch.full((*tile.shape[:3], 1), -math.inf, dtype=torch.float64, device=tile.device)
    total = torch.zeros_like(highest)
    weighted = torch.zeros(*tile.shape[:3], value.shape[3], dtype=torch.float64, device=tile.device)
    begin, end = rule.columns(rows, key.shape[2])
    for left in range(begin, end, block):
        columns = slice(left, min(left + block, end))
        scores = rule.apply(tile @ key[:, :, columns].transpose(2, 3), rows, columns, offset=offset)
        # The shift cancels out of the result, so it takes no part in its gradient.
        new = torch.maximum(highest, scores.detach().amax(dim=3, keepdim=True))
        level = new.masked_fill(new == -math.inf, 0.0)  # nothing seen yet: keep -inf - -inf out of the exponent
        shrink, weights = _exp(highest - level), _exp(scores - level)
        total = total * shrink + weights.sum(dim=3, keepdim=True)
        weighted = weighted * shrink + weights @ value[:, :, columns]
        highest = new
    return torch.where(total > 0, weighted / total.clamp_min(1e-300), 0.0)


def _exp(values: Tensor) -> Tensor:
    """e to the power of values up to 0, absolute to the last places."""
    import torch

    return torch.exp2(values * math.log2(math.e))

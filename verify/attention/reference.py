"""Float64 attention, computed tile by tile: the reference for every kernel.

The softmax is online: each tile of keys updates a running maximum, a running sum and a running weighted sum. No complete
row of scores is in memory, and the block size changes only the order of additions. Every step is differentiable, so the
gradients of the reference come from torch's autograd, in float64 as well. The exponential uses powers of two, because
`operators.exp` checks torch's own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """How scores change before the softmax, and which keys a query sees.

    Query i sees key j if i + first <= j <= i + diagonal (None: no bound; diagonal 0: causal from the top left, see
    `bottom_right`) and if `keep`, which broadcasts to (batch, heads, queries, keys), is true. A score s becomes
    cap tanh(s / cap) if `softcap` is above zero. Then slope |i + keys - queries - j| is subtracted, with one slope per
    query head (ALiBi), and `bias`, which broadcasts as `keep` does, is added.
    """

    diagonal: int | None = None
    first: int | None = None
    keep: Tensor | None = None
    softcap: float = 0.0
    slopes: Tensor | None = None
    bias: Tensor | None = None

    def columns(self, rows: slice, keys: int) -> tuple[int, int]:
        """Return the range of keys that any query of a tile may see."""
        end = keys if self.diagonal is None else max(0, min(keys, rows.stop + self.diagonal))
        begin = 0 if self.first is None else max(0, min(end, rows.start + self.first))
        return begin, end

    def apply(self, scores: Tensor, rows: slice, columns: slice, *, offset: int) -> Tensor:
        """Return the scores of a tile for the softmax: minus infinity for keys that are not seen."""
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
    """Return the diagonal with which the last query sees every key, as in causal attention to a cache of keys."""
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
    """Return scaled dot product attention of (batch, heads, length, dim) tensors, in float64 on the query's device.

    Keys and values may have fewer heads than the queries; equal groups of query heads then share one (GQA), and ValueError
    is raised where they cannot. `scale` defaults to 1 / sqrt(dim). The other arguments are those of `Rule`. A query that
    sees no key gives zeros.
    """
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
    rule = Rule(diagonal, first, keep, softcap, slopes, bias)
    tiles = [slice(top, min(top + block, queries)) for top in range(0, queries, block)]
    return torch.cat([_rows(scaled, key, value, rows=rows, rule=rule, block=block) for rows in tiles], dim=2)


def _rows(query: Tensor, key: Tensor, value: Tensor, *, rows: slice, rule: Rule, block: int) -> Tensor:
    """Return the result of one tile of queries, over all tiles of keys that it sees."""
    tile, offset = query[:, :, rows], key.shape[2] - query.shape[2]
    highest = torch.full((*tile.shape[:3], 1), -math.inf, dtype=torch.float64, device=tile.device)
    total = torch.zeros_like(highest)
    weighted = torch.zeros(*tile.shape[:3], value.shape[3], dtype=torch.float64, device=tile.device)
    begin, end = rule.columns(rows, key.shape[2])
    for left in range(begin, end, block):
        columns = slice(left, min(left + block, end))
        scores = rule.apply(tile @ key[:, :, columns].transpose(2, 3), rows, columns, offset=offset)
        # The shift cancels out of the result, so it has no gradient.
        new = torch.maximum(highest, scores.detach().amax(dim=3, keepdim=True))
        level = new.masked_fill(new == -math.inf, 0.0)  # nothing seen yet: avoid -inf - -inf in the exponent
        shrink, weights = _exp(highest - level), _exp(scores - level)
        total = total * shrink + weights.sum(dim=3, keepdim=True)
        weighted = weighted * shrink + weights @ value[:, :, columns]
        highest = new
    return torch.where(total > 0, weighted / total.clamp_min(1e-300), 0.0)


def _exp(values: Tensor) -> Tensor:
    """Return e to the power of values up to 0, with an absolute error in the last digits."""
    return torch.exp2(values * math.log2(math.e))

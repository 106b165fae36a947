"""Attention problems of the checks, their float64 reference, and the plain formula that sets their tolerance.

The reference is computed for some queries at a time. Every step is differentiable, so its gradients come from torch's autograd, in float64 as
well. The exponential uses powers of two, because `operators.exp` checks torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verify.inputs import normal
from verify.records import Level


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
    block: int = 128,
) -> Tensor:
    """Return scaled dot product attention of (batch, heads, length, dim) tensors, in float64 on the query's device.

    Keys and values may have fewer heads than the queries; equal groups of query heads then share one (GQA).
    `scale` defaults to 1 / sqrt(dim).

    A score s becomes cap tanh(s / cap) if `softcap` is above zero. Then slope |i + keys - queries - j| is subtracted, with one slope
    per query head (ALiBi). Query i sees key j if i + first <= j <= i + diagonal (None: no bound; diagonal 0: causal,
    aligned to the top left, see `bottom_right`) and if `keep` is true. `keep` broadcasts to (batch, heads, queries, keys).
    A query that sees no key gives zeros. `block` queries are computed at a time.
    """
    batch, heads, queries, dim = query.shape
    keys = key.shape[2]
    scaled = query.double() * (1 / math.sqrt(dim) if scale is None else scale)
    key, value = (part.double().repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    column, found = torch.arange(keys, device=query.device), []
    for top in range(0, queries, block):
        rows = slice(top, min(top + block, queries))
        row = torch.arange(rows.start, rows.stop, device=query.device)[:, None]
        scores = scaled[:, :, rows] @ key.transpose(2, 3)
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        if slopes is not None:
            scores = scores - slopes.double()[:, None, None] * (row + keys - queries - column).abs()
        if diagonal is not None:
            scores = scores.masked_fill(column > row + diagonal, -math.inf)
        if first is not None:
            scores = scores.masked_fill(column < row + first, -math.inf)
        if keep is not None:
            scores = scores.masked_fill(~keep.expand(batch, heads, queries, keys)[:, :, rows], -math.inf)
        # The shift cancels out of the result, so it has no gradient.
        highest = scores.detach().amax(dim=3, keepdim=True)
        level = highest.masked_fill(highest == -math.inf, 0.0)  # nothing seen: avoid -inf - -inf in the exponent
        weights = torch.exp2((scores - level) * math.log2(math.e))
        total = weights.sum(dim=3, keepdim=True)
        found.append(torch.where(total > 0, weights @ value / total.clamp_min(1e-300), 0.0))
    return torch.cat(found, dim=2)


class Inputs(NamedTuple):
    """Packed query, key and value: (tokens, heads, dim), one sequence after the other."""

    query: Tensor
    key: Tensor
    value: Tensor

    def to(self, device: str) -> Inputs:
        """Copy the tensors to a device."""
        return Inputs(*(part.to(device) for part in self))


@dataclass(frozen=True)
class Case:
    """One problem. `sequences` holds (queries, keys) of each sequence; the causal mask is aligned to the bottom right."""

    name: str
    heads: int
    key_heads: int
    sequences: tuple[tuple[int, int], ...]
    dim: int
    causal: bool = False
    window: int | None = None
    """Maximum number of keys before its own position that a query sees."""
    softcap: float = 0.0
    alibi: bool = False
    page: int | None = None
    """Tokens per page if keys and values are in pages, as in a server's cache."""
    level: Level = "standard"

    @property
    def dense(self) -> bool:
        """Whether all sequences have the same length, so that a (batch, heads, length, dim) tensor holds them."""
        return len(set(self.sequences)) == 1 and self.page is None

    @property
    def required_features(self) -> frozenset[str]:
        """Features that a kernel needs for this case, beyond a square causal mask."""
        features = {
            "corner": self.causal and any(queries != keys for queries, keys in self.sequences),
            "blind": self.causal and any(queries > keys for queries, keys in self.sequences),
            "window": self.window is not None,
            "softcap": self.softcap > 0,
            "alibi": self.alibi,
            "packed": not self.dense and self.page is None,
            "paged": self.page is not None,
        }
        return frozenset(name for name, needed in features.items() if needed)

    def inputs(self, dtype: str) -> Inputs:
        """Return the inputs on the CPU, the same in every run."""
        queries, keys = (sum(lengths) for lengths in zip(*self.sequences, strict=True))
        return Inputs(
            normal(queries, self.heads, self.dim, seed=5, dtype=dtype),
            normal(keys, self.key_heads, self.dim, seed=6, dtype=dtype),
            normal(keys, self.key_heads, self.dim, seed=7, dtype=dtype),
        )

    def slopes(self) -> Tensor | None:
        """Return ALiBi's slope of each query head, from 1/2 downwards; None without ALiBi."""
        return 2.0 ** -(torch.arange(self.heads) + 1) if self.alibi else None

    def exact(self, inputs: Inputs) -> Tensor:
        """Return the packed result of the reference in float64."""
        slopes, found = self.slopes(), []
        for parts in self.split(inputs):
            corner = bottom_right(*(len(part) for part in parts[:2]))
            result = attention(
                *(part.transpose(0, 1)[None] for part in parts),
                diagonal=corner if self.causal else None,
                first=None if self.window is None else corner - self.window,
                softcap=self.softcap,
                slopes=None if slopes is None else slopes.to(inputs.query.device),
            )
            found.append(result[0].transpose(0, 1))
        return torch.cat(found)

    def split(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the query, key and value of each sequence."""
        queries, keys = (list(lengths) for lengths in zip(*self.sequences, strict=True))
        return zip(parts[0].split(queries), parts[1].split(keys), parts[2].split(keys), strict=True)

    def bias(self, queries: int, keys: int) -> Tensor | None:
        """Return what is added to the scores of one sequence, (heads, queries, keys); None for nothing."""
        if not (self.causal or self.window is not None or self.alibi):
            return None
        distance = torch.arange(keys)[None, :] - torch.arange(queries)[:, None] - bottom_right(queries, keys)
        bias = torch.zeros(self.heads, queries, keys)
        slopes = self.slopes()
        if slopes is not None:
            bias = bias - slopes[:, None, None] * distance.abs()
        if self.causal:
            bias = bias.masked_fill(distance > 0, -math.inf)
        if self.window is not None:
            bias = bias.masked_fill(distance < -self.window, -math.inf)
        return bias


CASES = (
    Case("decode one token", 8, 2, ((1, 200), (1, 200)), 64, level="quick"),
    Case("causal", 8, 8, ((129, 129), (129, 129)), 64, causal=True, level="quick"),
    Case("odd lengths", 4, 4, ((77, 301), (77, 301)), 80),
    Case("causal, grouped heads", 8, 2, ((256, 256), (256, 256)), 128, causal=True),
    Case("bottom-right causal", 4, 4, ((33, 160), (33, 160)), 64, causal=True),
    Case("rows that see nothing", 4, 4, ((96, 64), (96, 64)), 64, causal=True),
    Case("sliding window", 4, 2, ((150, 150),), 64, causal=True, window=31),
    Case("capped scores", 4, 4, ((130, 130),), 64, causal=True, softcap=5.0),
    Case("linear biases", 8, 8, ((65, 140),), 64, causal=True, alibi=True),
    Case("sequences of many lengths", 8, 2, ((1, 1), (61, 61), (7, 200), (1, 129)), 64, causal=True),
    Case("paged cache", 8, 2, ((1, 77), (1, 300), (19, 150)), 128, causal=True, page=16),
    Case("batch of 16", 4, 2, ((3, 67),) * 16, 64),
    Case("4,096 keys and more", 2, 1, ((33, 4160),), 64),
    Case(
        "paged cache, batch of 16",
        4,
        1,
        (*((1, 19 + 7 * place) for place in range(15)), (1, 4160)),
        128,
        causal=True,
        page=16,
    ),
    Case("decode a batch of 16 beyond 4,096 keys", 4, 1, ((1, 4160),) * 16, 64, level="full"),
    Case("causal, 4,096 tokens", 1, 1, ((4096, 4096),), 64, causal=True, level="full"),
    Case("narrow heads", 4, 4, ((100, 100), (100, 100)), 32, level="full"),
    Case("heads of 96", 4, 4, ((100, 100), (100, 100)), 96, causal=True, level="full"),
    Case("heads of 192", 2, 2, ((70, 70),), 192, causal=True, level="full"),
    Case("wide heads", 2, 2, ((130, 130), (130, 130)), 256, causal=True, level="full"),
    Case("long, causal, grouped heads", 4, 1, ((1024, 1024),), 128, causal=True, level="full"),
    Case("one token alone", 1, 1, ((1, 1),), 64, level="full"),
    Case("paged cache, long", 4, 1, ((5, 1000), (1, 2000)), 128, causal=True, page=32, level="full"),
)


def plain(case: Case, inputs: Inputs) -> Tensor:
    """Compute the packed result by the plain formula; every step is rounded to the precision of the inputs.

    8-bit inputs are computed in bfloat16, and the weights are rounded to 8 bits again, as kernels do.
    """
    coarse = inputs.query.dtype if inputs.query.element_size() == 1 else None
    groups = case.heads // case.key_heads
    parts = []
    for one, two, three in case.split([part.bfloat16() if coarse else part for part in inputs]):
        near, far = (part.repeat_interleave(groups, dim=1).transpose(0, 1) for part in (two, three))
        scores = (one.transpose(0, 1) * (1 / math.sqrt(case.dim))) @ near.transpose(1, 2)
        if case.softcap:
            scores = case.softcap * torch.tanh(scores / case.softcap)
        bias = case.bias(one.shape[0], two.shape[0])
        if bias is not None:
            scores = scores + bias.to(scores)
        weights = scores.softmax(dim=2)
        if "blind" in case.required_features:
            weights = weights.nan_to_num(nan=0.0)
        if coarse:
            weights = weights.to(coarse).to(weights.dtype)
        parts.append((weights @ far).transpose(0, 1))
    return torch.cat(parts)

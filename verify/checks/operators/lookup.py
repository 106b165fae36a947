"""operators.lookup: finding the largest of a row, and fetching rows and elements by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from typing import TYPE_CHECKING

from verify.inputs import normal
from verify.operator_check import Comparison, check, copies

if TYPE_CHECKING:
    from torch import Tensor

VOCABULARY = 32_003
PEAKS = ((0,), (VOCABULARY - 1,), (1, 16_384), (16_383, 16_385, 32_002), (0, VOCABULARY - 1), (4097,), (32_000, 32_001))
"""Where the largest numbers of each row are: at its ends, in its middle, and several that are equal."""
TABLE, WIDTH = 1031, 67
IDS = (0, TABLE - 1, 1, TABLE - 2, 512, 511, 513, 0, TABLE - 1, 255, 256, 257, 640)


def _compare(device: str, dtype: str) -> Iterator[Comparison]:
    yield from _largest(device, dtype)
    yield from _fetched(device, dtype)


def _largest(device: str, dtype: str) -> Iterator[Comparison]:
    """The first of equal ones counts: torch.argmax documents it, and greedy answers hang on it."""
    import torch

    rows = normal(len(PEAKS), VOCABULARY, seed=78, dtype=dtype).clamp(max=3)
    for row, places in enumerate(PEAKS):
        rows[row, list(places)] = 4.0
    many = rows.to(device).repeat(copies(device, rows.numel()), 1)
    first = torch.tensor([min(places) for places in PEAKS])
    yield Comparison("argmax", many.argmax(dim=-1), first)
    values, places = many.max(dim=-1)
    yield Comparison("place of the maximum", places, first)
    yield Comparison("maximum", values, torch.full((len(PEAKS),), 4.0))
    count = 4
    values, places = many[-len(PEAKS) :].topk(count, dim=-1)
    exact = torch.tensor([nlargest(count, row) for row in rows.tolist()])
    yield Comparison("largest few", values, exact)
    there = rows.gather(1, places.cpu())
    yield Comparison("places of the largest few", there, exact)


def _fetched(device: str, dtype: str) -> Iterator[Comparison]:
    """Each element of the table says in whole numbers where it stands; bfloat16 holds them up to 256."""
    import torch
    from torch.nn import functional

    def element(row: int, column: int) -> int:
        return (row * 31 + column * 7) % 251

    table = torch.arange(TABLE)[:, None] * 31 + torch.arange(WIDTH) * 7
    weights, ids = (table % 251).to(device, getattr(torch, dtype)), torch.tensor(IDS)
    exact = torch.tensor([[element(row, column) for column in range(WIDTH)] for row in IDS])
    many = ids.to(device).repeat(copies(device, exact.numel()))
    yield Comparison("embedding", functional.embedding(many, weights), exact)
    yield Comparison("rows by index", weights[many], exact)
    yield Comparison("index_select", weights.index_select(0, many), exact)
    columns = (many * 3) % WIDTH
    picked = torch.tensor([element(row, row * 3 % WIDTH) for row in IDS])
    yield Comparison("gather", weights[many].gather(1, columns[:, None])[:, 0], picked)
    yield Comparison("rows put in their places", _put(weights, many[: len(IDS)]), exact)


def _put(weights: Tensor, ids: Tensor) -> Tensor:
    """Rows written into another table by their numbers, as into a cache, and read from there."""
    import torch

    other = torch.zeros_like(weights)
    other[ids] = weights[ids]
    return other.index_select(0, ids)


CHECK = check(
    "lookup",
    "argmax finds the first of the largest, top-k the largest few; embedding and gather fetch what stands there.",
    _compare,
)

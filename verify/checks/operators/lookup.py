"""operators.lookup: argmax, top-k, embedding and gather."""

from collections.abc import Iterator
from heapq import nlargest

import torch
from torch import Tensor
from torch.nn import functional

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies

VOCABULARY = 32_003
PEAKS = ((0,), (VOCABULARY - 1,), (1, 16_384), (16_383, 16_385, 32_002), (0, VOCABULARY - 1), (4097,), (32_000, 32_001))
"""Positions of the largest numbers of each row: at its ends, in the middle, and several equal ones."""
TABLE, WIDTH = 1031, 67
IDS = (0, TABLE - 1, 1, TABLE - 2, 512, 511, 513, 0, TABLE - 1, 255, 256, 257, 640)


def _largest(device: str, dtype: str) -> Iterator[Comparison]:
    """Expect the first of equal elements: torch.argmax documents it, and greedy answers depend on it."""
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
    """Return elements whose value is their position; bfloat16 holds whole numbers up to 256."""

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
    """Write rows to positions of another table, as into a cache, and read them from there."""
    other = torch.zeros_like(weights)
    other[ids] = weights[ids]
    return other.index_select(0, ids)


run = comparison_run(_largest, _fetched)

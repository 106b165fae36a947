"""Layout of packed problems for kernels: starts of sequences, and pages of their keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

FILLER = 60.0
"""Content of unused cache positions: a kernel that reads it gets a very wrong result. Exact in all precisions."""


def sequence_starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return the first token of each sequence and the end of the last, int32, on a device."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def page_table(lengths: Sequence[int], page: int, device: torch.device) -> Tensor:
    """Return (sequences, pages), int32: the pages of each sequence, scattered so that none are consecutive."""
    widest = max(-(-length // page) for length in lengths)
    count = len(lengths) * widest
    step = next(step for step in range(count // 2 + 1, 2 * count + 2) if math.gcd(step, count) == 1)
    order = [(place * step) % count for place in range(count)]
    return torch.tensor(order, dtype=torch.int32, device=device).view(len(lengths), widest)


def cache(packed: Tensor, lengths: Sequence[int], table: Tensor, page: int) -> Tensor:
    """Return the (pages, page size, heads, dim) cache with packed (tokens, heads, dim) keys or values."""
    filled = torch.full((table.numel(), page, *packed.shape[1:]), FILLER, device=packed.device).to(packed.dtype)
    for row, rows in zip(table.tolist(), packed.split(list(lengths)), strict=True):
        for number, chunk in zip(
            row, rows.split(page), strict=False
        ):  # a short sequence does not use all pages of its row
            filled[number, : chunk.shape[0]] = chunk
    return filled


def slots(lengths: Sequence[int], table: Tensor, page: int) -> Tensor:
    """Return the position of each packed token in the cache, counted in tokens."""
    parts = []
    for row, length in zip(table.long(), lengths, strict=True):
        place = torch.arange(length, device=table.device)
        parts.append(row[place // page] * page + place % page)
    return torch.cat(parts)

"""operators.softmax: softmax of short rows, vocabulary-sized rows, and masked ones."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies
from verify.operators.reference import UNIT, log_softmax, softmax, steps, summed

SHAPES = ((7, 129), (3, 1500), (2, 32003))
"""Rows and columns. Kernels differ by length: short rows, longer ones, and the logits of two tokens."""


def _compare(device: str, dtype: str) -> Iterator[Comparison]:
    for rows, columns in SHAPES:
        values = _values(rows, columns, dtype)
        exact = softmax(values)
        below = values.double().amax(dim=1, keepdim=True) - values.double()
        # The score minus the maximum is rounded before the exponential.
        lost = steps(exact) + summed(exact, columns) + exact * below.clamp(max=1e4) * UNIT
        many = values.to(device).repeat(copies(device, values.numel()), 1)
        where = f"of {columns}"
        yield Comparison(f"functional.softmax {where}", functional.softmax(many, dim=-1), exact, lost)
        yield Comparison(f"torch.softmax {where}", torch.softmax(many, 1), exact, lost)
        whole = many.softmax(dim=-1, dtype=torch.float32)
        yield Comparison(f"Tensor.softmax in float32 {where}", whole, exact, lost)
        seen, one = values[:1], torch.ones(1)
        exact = log_softmax(seen)
        many = seen.to(device).repeat(copies(device, seen.numel()), 1)
        result = many.log_softmax(dim=-1, dtype=torch.float32)
        yield Comparison(f"Tensor.log_softmax {where}", result, exact, steps(exact) + summed(one, columns))


def _values(rows: int, columns: int, dtype: str) -> Tensor:
    """Return scores; every seventh of the second row is masked, those of the last row are far from zero."""
    values = normal(rows, columns, seed=72, dtype=dtype) * 3
    values[1, ::7] = -math.inf
    values[-1] += 60
    return values


run = comparison_run(_compare)

"""operators.exp: the exponential function, a part of every softmax and SiLU."""

import math
from collections.abc import Iterator

import torch

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies
from verify.operators.reference import map_elements, steps

VALUES = 4099
"""A prime, so that each value occurs at every position of a vector."""
EDGES = (0.0, -0.0, 1.0, -1.0, 10.5, -16.0, -80.0, -math.inf)
"""In addition to normal numbers. None above 11, because float16 cannot hold the result."""


def _compare(device: str, dtype: str) -> Iterator[Comparison]:
    values = (normal(VALUES, seed=71, dtype=dtype) * 4).clamp(max=10.5)
    values[-len(EDGES) :] = torch.tensor(EDGES)
    exact = map_elements(math.exp, values)
    lost = steps(exact)
    many = values.to(device).repeat(copies(device, VALUES))
    yield Comparison("torch.exp", torch.exp(many), exact, lost)
    yield Comparison("Tensor.exp", many.exp(), exact, lost)
    apart = torch.stack([many, many], dim=1)[:, 0]
    yield Comparison("exp of elements that lie apart", torch.exp(apart), exact, lost)
    yield Comparison("exp in place", many.exp_(), exact, lost)


run = comparison_run(_compare)

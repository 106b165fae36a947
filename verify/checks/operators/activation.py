"""operators.activation: SiLU, gated SiLU and GELU."""

from collections.abc import Iterator

import torch
from torch.nn import functional

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies
from verify.operators.reference import gelu, gelu_tanh, map_elements, sigmoid, silu, steps

VALUES = 2053
"""A prime, so that each value occurs at every position of a vector."""


def _compare(device: str, dtype: str) -> Iterator[Comparison]:
    values = normal(VALUES, seed=76, dtype=dtype) * 3
    many = values.to(device).repeat(copies(device, VALUES))
    swish = map_elements(silu, values)
    yield Comparison("functional.silu", functional.silu(many), swish, steps(swish))
    yield Comparison("silu in place", functional.silu(many.clone(), inplace=True), swish, steps(swish))
    exact = map_elements(sigmoid, values)
    yield Comparison("torch.sigmoid", torch.sigmoid(many), exact, steps(exact))
    for name, function, approximate in (("gelu", gelu, "none"), ("gelu by tanh", gelu_tanh, "tanh")):
        # 1 + erf and 1 + tanh cancel for values far below zero.
        result = functional.gelu(many, approximate=approximate)
        yield Comparison(name, result, map_elements(function, values), steps(values))
    gates = torch.stack([many.view(-1, VALUES), many.view(-1, VALUES).flip(1)], dim=1).flatten(1)
    result = functional.silu(gates[:, :VALUES]) * gates[:, VALUES:]
    numbers = values.tolist()
    pairs = zip(numbers, reversed(numbers), strict=True)
    exact = torch.tensor([silu(value) * gate for value, gate in pairs], dtype=torch.float64)
    # Two operators: the first result is rounded before the second operator.
    lost = torch.finfo(values.dtype).eps / 2 * exact.abs() + steps(exact)
    yield Comparison("gated silu", result, exact, lost)


run = comparison_run(_compare)

"""operators.exp, activation, softmax and norm: functions of elements and of rows."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import LayerNorm, functional

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies
from verify.operators.reference import (
    UNIT,
    gelu,
    gelu_tanh,
    layer_norm,
    log_softmax,
    map_elements,
    rms_norm,
    sigmoid,
    silu,
    steps,
    summed,
)
from verify.operators.reference import softmax as exact_softmax

EXPONENTS = 4099
"""A prime, so that each value occurs at every position of a vector."""
EDGES = (0.0, -0.0, 1.0, -1.0, 10.5, -16.0, -80.0, -math.inf)
"""In addition to normal numbers. None above 11, because float16 cannot hold the result."""
VALUES = 2053
"""A prime, so that each value occurs at every position of a vector."""
SOFTMAX_SHAPES = ((7, 129), (3, 1500), (2, 32003))
"""Rows and columns. Kernels differ by length: short rows, longer ones, and the logits of two tokens."""
NORM_ROWS = 3
WIDTHS = (515, 1024)
"""Odd widths and multiples of every vector width: GPUs have kernels for each."""
SIZES = ((1.0, 1e-5), (2e-3, 1e-5), (1e-3, 1e-6))
"""Standard deviation of the values, and epsilon: the mean square is larger, or about equal."""


def _exp(device: str, dtype: str) -> Iterator[Comparison]:
    values = (normal(EXPONENTS, seed=71, dtype=dtype) * 4).clamp(max=10.5)
    values[-len(EDGES) :] = torch.tensor(EDGES)
    exact = map_elements(math.exp, values)
    lost = steps(exact)
    many = values.to(device).repeat(copies(device, EXPONENTS))
    yield Comparison("torch.exp", torch.exp(many), exact, lost)
    yield Comparison("Tensor.exp", many.exp(), exact, lost)
    apart = torch.stack([many, many], dim=1)[:, 0]
    yield Comparison("exp of elements that lie apart", torch.exp(apart), exact, lost)
    yield Comparison("exp in place", many.exp_(), exact, lost)


exp = comparison_run(_exp)


def _activation(device: str, dtype: str) -> Iterator[Comparison]:
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


activation = comparison_run(_activation)


def _softmax(device: str, dtype: str) -> Iterator[Comparison]:
    for rows, columns in SOFTMAX_SHAPES:
        values = _scores(rows, columns, dtype)
        exact = exact_softmax(values)
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


def _scores(rows: int, columns: int, dtype: str) -> Tensor:
    """Return scores; every seventh of the second row is masked, those of the last row are far from zero."""
    values = normal(rows, columns, seed=72, dtype=dtype) * 3
    values[1, ::7] = -math.inf
    values[-1] += 60
    return values


softmax = comparison_run(_softmax)


def _norm(device: str, dtype: str) -> Iterator[Comparison]:
    for width in WIDTHS:
        weight, bias = (normal(width, seed=seed, dtype=dtype) + 1 for seed in (73, 74))
        there, shift = weight.to(device), bias.to(device)
        for size, epsilon in SIZES:
            values = normal(NORM_ROWS, width, seed=75, dtype=dtype) * size
            many = values.to(device).repeat(copies(device, values.numel()), 1)
            where = f"of {width} values about {size:g}"
            exact = layer_norm(values, weight, bias, epsilon=epsilon)
            lost = steps(exact - bias) + steps(bias) + summed(_largest(exact - bias), width)
            result = functional.layer_norm(many, (width,), there, shift, epsilon)
            yield Comparison(f"layer norm {where}", result, exact, lost)
            plain = LayerNorm(width, epsilon, elementwise_affine=False)(many)
            exact = layer_norm(values, epsilon=epsilon)
            yield Comparison(
                f"layer norm without weights {where}", plain, exact, steps(exact) + summed(_largest(exact), width)
            )
            exact = rms_norm(values, weight, epsilon=epsilon)
            lost = steps(exact) + summed(exact, width)
            yield Comparison(f"RMS norm by its formula {where}", _formula(many, there, epsilon), exact, lost)
            # Releases of torch differ in whether they round before the weights are applied.
            twice = lost + torch.finfo(values.dtype).eps / 2 * exact.abs()
            yield Comparison(f"RMS norm {where}", functional.rms_norm(many, (width,), there, epsilon), exact, twice)


def _largest(exact: Tensor) -> Tensor:
    """Return the largest value of each row, which limits the rounding of the subtracted mean."""
    return exact.abs().amax(dim=1, keepdim=True)


def _formula(values: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Compute RMS norm as engines do without a kernel: in float32, rounded at the end."""
    wide = values.float()
    result: Tensor = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + epsilon) * weight.float()
    return result.to(values.dtype)


norm = comparison_run(_norm)

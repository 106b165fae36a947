"""operators.norm: layer norm and RMS norm, including values for which epsilon dominates."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import LayerNorm, functional

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies
from verify.operators.reference import layer_norm, rms_norm, steps, summed

ROWS = 3
WIDTHS = (515, 1024)
"""Odd widths and multiples of every vector width: GPUs have kernels for each."""
SIZES = ((1.0, 1e-5), (2e-3, 1e-5), (1e-3, 1e-6))
"""Standard deviation of the values, and epsilon: the mean square is larger, or about equal."""


def _compare(device: str, dtype: str) -> Iterator[Comparison]:
    for width in WIDTHS:
        weight, bias = (normal(width, seed=seed, dtype=dtype) + 1 for seed in (73, 74))
        there, shift = weight.to(device), bias.to(device)
        for size, epsilon in SIZES:
            values = normal(ROWS, width, seed=75, dtype=dtype) * size
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


run = comparison_run(_compare)

"""Matrix products and what they should be, without a matrix product: by multiplications and sums alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from verify.operator_reference import product
from verify.tables import table

if TYPE_CHECKING:
    from torch import Tensor

HALF = 1 << 20
"""Factors of the test of a whole product lie between minus and plus this."""


def whole_numbers(*shape: int, seed: int, dtype: str) -> Tensor:
    """-1, 0 and 1, each zero as often as not.

    Their products of depths up to 4,096 stay below 256 (eight standard deviations), which bfloat16 and float16 hold exactly:
    whatever the order of additions, no type loses anything.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    thrown = torch.randint(0, 4, shape, generator=generator)
    return (thrown.eq(0).int() - thrown.eq(1).int()).to(getattr(torch, dtype))


def wrong_rows(left: Tensor, right: Tensor, result: Tensor) -> int:
    """How many rows of a product of `whole_numbers` hold an error (Freivalds: left (right r) = result r for a random r).

    Computed where the tensors are, in float64, exactly; a wrong row goes unnoticed once in two million times.
    """
    import torch

    generator = torch.Generator().manual_seed(82)
    factors = torch.randint(-HALF, HALF, (right.shape[1],), generator=generator).double().to(right.device)
    once = (right.double() * factors).sum(dim=1)
    expected, found = (left.double() * once).sum(dim=1), (result.double() * factors).sum(dim=1)
    return int((found != expected).sum())


def error_share(left: Tensor, right: Tensor, result: Tensor) -> float:
    """The largest error of an element as a share of what rounding may cost it; NaN and infinity give infinity.

    What may be lost: once the rounding to the result's own precision, and in the depth's additions that of float32, which
    every kernel accumulates in: at most one a term, and as sums of errors go far less.
    """
    import torch

    rule, depth = table("tolerances")["gemm"], left.shape[-1]
    exact = product(left, right)
    near, far = left.double().square().sum(dim=-1).sqrt(), right.double().square().sum(dim=-2).sqrt()
    magnitude = near[..., :, None] * far[..., None, :]
    rounding = torch.finfo(result.dtype).eps / 2 * exact.abs()
    terms = min(depth, rule["spread"] * math.sqrt(depth))
    accumulation = terms * torch.finfo(torch.float32).eps / 2 * magnitude
    share = ((result.double() - exact).abs() / (rule["margin"] * (rounding + accumulation))).max()
    return float(share.nan_to_num(nan=math.inf, posinf=math.inf))

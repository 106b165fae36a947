"""Matrix products and their expected results, computed by multiplications and sums only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verify.operators.reference import product
from verify.tables import table

HALF = 1 << 20
"""Random factors of the test of a whole product are between -HALF and HALF."""


def whole_numbers(*shape: int, seed: int, dtype: str) -> Tensor:
    """Return a matrix of -1, 0 and 1 in which half of the elements are zero.

    Products with depths up to 4,096 stay below 256 (eight standard deviations), which bfloat16 and float16 hold exactly. No type
    loses anything in any order of additions.
    """
    generator = torch.Generator().manual_seed(seed)
    thrown = torch.randint(0, 4, shape, generator=generator)
    return (thrown.eq(0).int() - thrown.eq(1).int()).to(getattr(torch, dtype))


def wrong_rows(left: Tensor, right: Tensor, result: Tensor) -> int:
    """Return how many rows of a product of `whole_numbers` are wrong (Freivalds: left (right r) = result r for a random r).

    Computed exactly, in float64, on the device of the tensors. The chance to miss a wrong row is one in two million.
    """
    generator = torch.Generator().manual_seed(82)
    factors = torch.randint(-HALF, HALF, (right.shape[1],), generator=generator).double().to(right.device)
    once = (right.double() * factors).sum(dim=1)
    expected, found = (left.double() * once).sum(dim=1), (result.double() * factors).sum(dim=1)
    return int((found != expected).sum())


def error_share(left: Tensor, right: Tensor, result: Tensor) -> float:
    """Return the largest error of an element as a share of the rounding bound; NaN and infinity give infinity.

    The bound is one rounding to the precision of the result, plus float32 rounding in the additions over the depth, in which
    every kernel accumulates: at most one per term, and far less for sums of independent errors.
    """
    rule, depth = table("tolerances")["gemm"], left.shape[-1]
    exact = product(left, right)
    near, far = left.double().square().sum(dim=-1).sqrt(), right.double().square().sum(dim=-2).sqrt()
    magnitude = near[..., :, None] * far[..., None, :]
    rounding = torch.finfo(result.dtype).eps / 2 * exact.abs()
    terms = min(depth, rule["spread"] * math.sqrt(depth))
    accumulation = terms * torch.finfo(torch.float32).eps / 2 * magnitude
    share = ((result.double() - exact).abs() / (rule["margin"] * (rounding + accumulation))).max()
    return float(share.nan_to_num(nan=math.inf, posinf=math.inf))

"""kernels.gemm_batched: batches of small products, as in attention from single operators."""

from collections.abc import Iterator

import torch

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run
from verify.operators.reference import product, summed, whole_numbers

SHAPES = ((33, 17, 65, 31), (257, 1, 64, 9), (1031, 3, 5, 7), (5, 2, 1037, 9))
"""Batch, rows, depth, columns: odd sizes, decoding, more than 1,024 products, and a depth above that."""
HEADS = 11
"""Heads per sequence of the first batch, which has three sequences."""


def _compare(device: str, dtype: str) -> Iterator[Comparison]:
    for batch, rows, depth, columns in SHAPES:
        where = f"{batch} of {rows}x{depth}x{columns}"
        left, right = (
            whole_numbers(batch, *sides, seed=seed, dtype=dtype)
            for seed, sides in ((10, (rows, depth)), (11, (depth, columns)))
        )
        exact = product(left.long(), right.long())
        near, far = left.to(device), right.to(device)
        yield Comparison(f"torch.bmm, {where}", torch.bmm(near, far), exact)
        turned = far.transpose(1, 2).contiguous().transpose(1, 2)
        yield Comparison(f"a @ b transposed, {where}", near @ turned, exact)
        added = torch.baddbmm(torch.ones_like(near[:1, :1, :1]), near, far, alpha=2) - 1
        yield Comparison(f"torch.baddbmm, {where}", added, 2 * exact)
        if batch % HEADS == 0:
            split = (part.unflatten(0, (-1, HEADS)) for part in (near, turned))
            yield Comparison(f"a @ b of heads, {where}", torch.matmul(*split).flatten(0, 1), exact)
        left, right = (
            normal(batch, rows, depth, seed=12, dtype=dtype),
            normal(batch, depth, columns, seed=13, dtype=dtype),
        )
        exact = product(left, right)
        lengths = left.double().norm(dim=-1)[..., None] * right.double().norm(dim=-2)[..., None, :]
        result = left.to(device) @ right.to(device)
        yield Comparison(f"a @ b of any numbers, {where}", result, exact, summed(lengths, depth))


run = comparison_run(_compare)

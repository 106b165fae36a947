"""kernels.gemm: matrices are multiplied right in every precision that models are served in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verify.inputs import DTYPES, finish, normal, spoil, whole_float32
from verify.records import Check, Context, Figure, Outcome
from verify.tables import table

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = {"quick": ((256, 512, 192),), "standard": ((256, 512, 192), (127, 1000, 65), (1, 768, 640))}
"""Rows, depth, columns: one smooth, one odd, one as in decoding a single token."""


def _run(context: Context) -> Outcome:
    shapes = SHAPES["standard" if context.reaches("standard") else "quick"]
    device = context.device or "cpu"
    whole_float32()
    figures, wrong = [], []
    for dtype in DTYPES:
        shares = []
        for rows, depth, columns in shapes:
            left, right = normal(rows, depth, seed=3, dtype=dtype), normal(depth, columns, seed=4, dtype=dtype)
            result = left.to(device) @ right.to(device)
            done = finish(device)
            result = result.cpu()
            if "wrong-result" in context.faults:
                result = spoil(result)
            share = error_share(left, right, result)
            shares.append(share)
            if not share <= 1:
                wrong.append(f"{dtype} {rows}x{depth}x{columns}: {share:.3g} times the error bound")
        figures.append(
            Figure(
                f"error, {dtype}",
                max(shares),
                "share of bound",
                ceiling=1,
                source=table("tolerances")["gemm"]["source"],
            )
        )
    evidence = {"call": "a @ b against float64 on the CPU", "shapes": shapes, **done}
    if wrong:
        remedy = "run it again; the device is not to be trusted"
        return Outcome("fail", f"wrong products: {'; '.join(wrong)}", tuple(figures), evidence, remedy)
    worst = max(figure.value or 0 for figure in figures)
    text = f"{', '.join(DTYPES)} are within the error bound (worst {worst:.2f} of it)"
    return Outcome("ok", text, tuple(figures), evidence)


def error_share(left: Tensor, right: Tensor, result: Tensor) -> float:
    """The largest error of an element as a share of what rounding may cost it; NaN and infinity give infinity.

    What may be lost: once the rounding to the result's own precision, and in each of the depth's additions that of
    float32, which every kernel accumulates in.
    """
    import torch

    row = table("tolerances")["gemm"]
    exact = left.double() @ right.double()
    magnitude = left.double().abs() @ right.double().abs()
    rounding = torch.finfo(result.dtype).eps / 2 * exact.abs()
    accumulation = left.shape[1] * torch.finfo(torch.float32).eps / 2 * magnitude
    share = ((result.double() - exact).abs() / (row["margin"] * (rounding + accumulation))).max()
    return float(share.nan_to_num(nan=float("inf"), posinf=float("inf")))


CHECK = Check(
    id="kernels.gemm",
    proves="Matrix products in float32, bfloat16 and float16 are right, element by element, against float64.",
    run=_run,
    requires=("kernels.vector_add",),
    each_device=True,
    faults=("wrong-result",),
)

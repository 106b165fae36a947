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
CPU_LARGE, GPU_LARGE = 512, 4096
"""Of a square product whose tiles keep all multiprocessors at work: 1024 of 128 x 128, several for each."""
SPREAD = 10.0
"""Standard deviations that a sum's rounding may be off by (Higham and Mary, SIAM J. Sci. Comput. 41, 2019)."""


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
        if context.reaches("standard") and (large := _large(dtype, device)) is not None:
            shares.append(large)
            if not large <= 1:
                wrong.append(f"{dtype}, large: {large:.3g} times the error bound")
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


def _large(dtype: str, device: str) -> float | None:
    """The largest error of a large product as a share of what rounding may cost it; null where there is no memory for it.

    It is held against the same product in float32, added up in two halves: other tiles on other multiprocessors.
    """
    import torch

    size = CPU_LARGE if device == "cpu" else GPU_LARGE
    row = table("tolerances")["gemm"]
    try:
        left, right = (normal(size, size, seed=seed, dtype=dtype).to(device) for seed in (8, 9))
        result = (left @ right).float()
        near, far, half = left.float(), right.float(), size // 2
        reference = near[:, :half] @ far[:half] + near[:, half:] @ far[half:]
        allowed = near.norm(dim=1)[:, None] * far.norm(dim=0)[None, :]
        allowed *= SPREAD * size**0.5 * torch.finfo(torch.float32).eps
        allowed += torch.finfo(left.dtype).eps / 2 * reference.abs()
        share = ((result - reference).abs() / (row["margin"] * allowed)).max().cpu()
    except torch.OutOfMemoryError:
        return None
    return float(share.nan_to_num(nan=float("inf"), posinf=float("inf")))


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
    proves="Matrix products in float32, bfloat16 and float16 are right, element by element, against float64; a large one on all multiprocessors against itself in halves.",
    run=_run,
    requires=("kernels.vector_add",),
    each_device=True,
    faults=("wrong-result",),
)

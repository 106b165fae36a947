"""kernels.gemm: matrix products in every precision that models use."""

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from verify.inputs import DTYPES, corrupt, normal, require_full_float32, synchronize
from verify.operators.reference import error_share, whole_numbers, wrong_rows
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

Shape = tuple[int, int, int]
"""Rows, depth, columns."""
SHAPES: Mapping[str, tuple[Shape, ...]] = {
    "quick": ((64, 512, 192),),
    "standard": ((64, 512, 192), (127, 1000, 65), (1, 768, 640)),
}
"""One smooth, one odd, one as in decoding a single token."""
THIN: tuple[Shape, ...] = ((1031, 65, 33), (33, 1037, 65), (65, 33, 1049))
"""One side is odd or prime and above 1,024, each in turn; computed with every call that engines use for products."""
WIDE: Shape = (1031, 65, 1049)
WHOLE: Shape = (1031, 1037, 1049)
"""All sides are odd; types without CPU instructions need seconds for it."""
GPU_LARGE = 4096
"""Size of a square product whose tiles keep all multiprocessors busy: 1024 of 128 x 128, several for each."""
SAMPLE = (0, 515, -1)
"""Number of rows and of columns of a large product that are compared element by element."""


def run(context: CheckContext) -> CheckResult:
    standard, device = context.includes("standard"), context.device or "cpu"
    spoiled = "wrong-result" in context.faults
    require_full_float32()
    figures, wrong, left_out = [], [], []
    for dtype in DTYPES:
        shares = dict(_measured(dtype, device, SHAPES["standard" if standard else "quick"], spoiled=spoiled))
        rows: dict[str, int] = {}
        if standard:
            rows = dict(_thin(dtype, device, spoiled=spoiled))
            largest = _largest(dtype, device, whatever=context.includes("full"))
            left_out += [] if WHOLE in largest else [f"{dtype} {_text(WHOLE)}"]
            for shape in largest:
                rows[_text(shape)] = _whole(dtype, device, shape, spoiled=spoiled)
                shares[_text(shape)] = _sampled(dtype, device, shape, spoiled=spoiled)
            if (halves := _halves(dtype, device)) is not None:
                shares["large, in halves"] = halves
        wrong += [
            f"{dtype} {what}: {share:.3g} times the error bound" for what, share in shares.items() if not share <= 1
        ]
        wrong += [f"{dtype} {what}: {count} rows of whole numbers" for what, count in rows.items() if count]
        source = table("tolerances")["gemm"]["source"]
        figures.append(Figure(f"error, {dtype}", max(shares.values()), "share of bound", ceiling=1, source=source))
        if rows:
            name = f"wrong rows of whole numbers, {dtype}"
            figures.append(Figure(name, sum(rows.values()), "count", ceiling=0, source="nothing is rounded"))
    call = "a @ b, torch.mm, functional.linear against multiplications and sums"
    evidence = {"call": call, "too slow at this level": left_out, **synchronize(device)}
    if wrong:
        remedy = "run it again; do not trust the device"
        return CheckResult("fail", f"wrong products: {'; '.join(wrong)}", tuple(figures), evidence, remedy)
    worst = max(figure.value or 0 for figure in figures)
    text = f"{', '.join(DTYPES)} are within the error bound (worst {worst:.2f} of it)"
    return CheckResult("ok", text, tuple(figures), evidence)


def _measured(dtype: str, device: str, shapes: tuple[Shape, ...], *, spoiled: bool) -> Iterator[tuple[str, float]]:
    """Yield the errors of products of normally distributed numbers, over all elements."""
    for rows, depth, columns in shapes:
        left, right = normal(rows, depth, seed=3, dtype=dtype), normal(depth, columns, seed=4, dtype=dtype)
        result = (left.to(device) @ right.to(device)).cpu()
        yield _text((rows, depth, columns)), error_share(left, right, corrupt(result) if spoiled else result)


def _ways() -> Mapping[str, Callable[[Tensor, Tensor], Tensor]]:
    return {
        "a @ b": lambda left, right: left @ right,
        "torch.mm": torch.mm,
        "functional.linear": lambda left, right: functional.linear(left, right.t().contiguous()),
        "functional.linear, bias": lambda left, right: (
            functional.linear(left, right.t(), torch.ones_like(right[0])) - 1
        ),
        "a @ b of a batch": lambda left, right: (left[None] @ right)[0],
    }


def _thin(dtype: str, device: str, *, spoiled: bool) -> Iterator[tuple[str, int]]:
    for shape in THIN:
        left, right = _pair(dtype, device, shape)
        for name, way in _ways().items():
            result = way(left, right)
            yield f"{_text(shape)}, {name}", wrong_rows(left, right, corrupt(result) if spoiled else result)


def _largest(dtype: str, device: str, *, whatever: bool) -> tuple[Shape, ...]:
    """Return the largest shapes for which a device is fast enough in a precision, judging by the time of a smaller one."""
    if device != "cpu":
        return WHOLE, (GPU_LARGE, GPU_LARGE, GPU_LARGE)
    left, right = _pair(dtype, device, WIDE)
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        left @ right
        seconds.append(time.monotonic() - began)
    expected = min(seconds) * WHOLE[1] / WIDE[1]
    return (WIDE, WHOLE) if whatever or expected <= table("tolerances")["gemm"]["budget_s"] else (WIDE,)


def _pair(dtype: str, device: str, shape: Shape) -> tuple[Tensor, Tensor]:
    rows, depth, columns = shape
    left, right = whole_numbers(rows, depth, seed=8, dtype=dtype), whole_numbers(depth, columns, seed=9, dtype=dtype)
    return left.to(device), right.to(device)


def _whole(dtype: str, device: str, shape: Shape, *, spoiled: bool) -> int:
    """Return how many rows of a product are wrong, checking all of them; 0 if there is not enough memory."""
    try:
        left, right = _pair(dtype, device, shape)
        result = left @ right
        return wrong_rows(left, right, corrupt(result) if spoiled else result)
    except torch.OutOfMemoryError:
        return 0


def _sampled(dtype: str, device: str, shape: Shape, *, spoiled: bool) -> float:
    """Return the largest share of the error bound in a few rows and columns of a product of normally distributed numbers."""
    rows, depth, columns = shape
    left, right = normal(rows, depth, seed=8, dtype=dtype), normal(depth, columns, seed=9, dtype=dtype)
    try:
        result = (left.to(device) @ right.to(device)).cpu()
    except torch.OutOfMemoryError:
        return 0.0
    some, other = [row % rows for row in SAMPLE], [column % columns for column in SAMPLE]
    if spoiled:
        result[some] = corrupt(result[some])
    return max(error_share(left[some], right, result[some]), error_share(left, right[:, other], result[:, other]))


def _halves(dtype: str, device: str) -> float | None:
    """Return the error of a large GPU product as a share of its bound; None if there is not enough memory.

    The reference is the same product in float32, added in two halves, which uses other tiles on other multiprocessors.
    """
    if device == "cpu":
        return None
    rule, size = table("tolerances")["gemm"], GPU_LARGE
    try:
        left, right = (normal(size, size, seed=seed, dtype=dtype).to(device) for seed in (8, 9))
        result = (left @ right).float()
        near, far, half = left.float(), right.float(), size // 2
        reference = near[:, :half] @ far[:half] + near[:, half:] @ far[half:]
        allowed = near.norm(dim=1)[:, None] * far.norm(dim=0)[None, :]
        allowed *= rule["spread"] * size**0.5 * torch.finfo(torch.float32).eps
        allowed += torch.finfo(left.dtype).eps / 2 * reference.abs()
        share = ((result - reference).abs() / (rule["margin"] * allowed)).max().cpu()
    except torch.OutOfMemoryError:
        return None
    return float(share.nan_to_num(nan=float("inf"), posinf=float("inf")))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))

"""kernels.gemm, gemm_8bit and gemm_batched: matrix products in every precision that models use, of 8-bit numbers, and in batches."""

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from verify.inputs import DTYPES, FP8, corrupt, normal, require_full_float32, synchronize
from verify.operators.check import Comparison, comparison_run
from verify.operators.reference import error_share, product, summed, whole_numbers, wrong_rows
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

Shape = tuple[int, int, int]
"""Rows, depth, columns."""
GEMM_SHAPES: Mapping[str, tuple[Shape, ...]] = {
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


def gemm(context: CheckContext) -> CheckResult:
    standard, device = context.includes("standard"), context.device or "cpu"
    spoiled = "wrong-result" in context.faults
    require_full_float32()
    figures, wrong, left_out = [], [], []
    for dtype in DTYPES:
        shares = dict(_measured(dtype, device, GEMM_SHAPES["standard" if standard else "quick"], spoiled=spoiled))
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


WAYS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a @ b": lambda left, right: left @ right,
    "torch.mm": torch.mm,
    "functional.linear": lambda left, right: functional.linear(left, right.t().contiguous()),
    "functional.linear, bias": lambda left, right: functional.linear(left, right.t(), torch.ones_like(right[0])) - 1,
    "a @ b of a batch": lambda left, right: (left[None] @ right)[0],
}


def _thin(dtype: str, device: str, *, spoiled: bool) -> Iterator[tuple[str, int]]:
    for shape in THIN:
        left, right = _pair(dtype, device, shape)
        for name, way in WAYS.items():
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


ROWS, DEPTH, COLUMNS = 65, 528, 144
"""Shape of fp8 products; the depth is 16 more than a multiple of every vector width, as odd as GPUs allow."""
INT8_SHAPES = {
    "cpu": ((64, 512, 128), (17, 515, 131), (3, 4099, 5), (1, 33, 7)),
    "gpu": ((64, 512, 128), (17, 520, 136), (33, 4104, 8)),
}
"""Shapes of int8 products, some with remainders on each side. GPUs require depths and columns in multiples of 8 and more than 16 rows."""


def gemm_8bit(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    spoiled = "wrong-result" in context.faults
    figures = list(_whole_numbers(device, spoiled=spoiled))
    refused = refuses_fp8(device)
    if refused is None:
        figures.append(_floats(device, spoiled=spoiled))
    evidence = {
        "call": "torch._int_mm and torch._scaled_mm against multiplications and sums",
        "fp8": refused or "computed",
        **synchronize(device),
    }
    wrong = [figure for figure in figures if not (figure.value or 0) <= (figure.ceiling or 0)]
    if wrong:
        details = "; ".join(f"{one.name} {one.value:.3g} {one.unit}" for one in wrong)
        remedy = "serve no model with 8-bit weights"
        return CheckResult("fail", f"wrong products: {details}", tuple(figures), evidence, remedy)
    kinds = "int8 and fp8" if refused is None else f"int8 (no fp8: {refused})"
    return CheckResult("ok", f"products in {kinds} are correct", tuple(figures), evidence)


def refuses_fp8(device: str) -> str | None:
    """Return why a device has no fp8 products; None if it has."""
    if device == "cpu":
        return None
    if torch.version.hip is not None:
        return "not evaluated on AMD GPUs, whose 8-bit formats differ by generation"
    needed = tuple(int(part) for part in table("tolerances")["gemm_8bit"]["fp8_compute_capability"].split("."))
    has = torch.cuda.get_device_capability(device)
    return None if has >= needed else f"compute capability {has[0]}.{has[1]}, {needed[0]}.{needed[1]} is needed"


def fp8_product(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two matrices of fp8 numbers in bfloat16; the second one is transposed, as the kernels want it."""
    one = torch.ones((), device=left.device)
    result: Tensor = torch._scaled_mm(  # noqa: SLF001 - torch has no other name for it
        left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16
    )
    return result


def _whole_numbers(device: str, *, spoiled: bool) -> Iterator[Figure]:
    """Yield the errors of integer products, which are exact in 32 bits."""
    wrong = dict.fromkeys(_inputs((1, 1, 1)), 0)
    for shape in INT8_SHAPES["cpu" if device == "cpu" else "gpu"]:
        for name, (left, right) in _inputs(shape).items():
            result = torch._int_mm(left.to(device), right.to(device)).cpu()  # noqa: SLF001 - torch has no other name for it
            if spoiled:
                result = corrupt(result.double()).long()
            wrong[name] += int((result.long() != product(left, right)).sum())
    for name, count in wrong.items():
        yield Figure(f"int8, {name}", count, "wrong elements", ceiling=0, source="whole numbers: nothing is rounded")


def _inputs(shape: tuple[int, int, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return pairs of matrices with all numbers, and with the largest of one sign and of both, whose sums exceed 16 bits."""
    rows, depth, columns = shape
    generator = torch.Generator().manual_seed(31)
    any_, other = (
        torch.randint(-128, 128, sides, generator=generator, dtype=torch.int8)
        for sides in ((rows, depth), (depth, columns))
    )
    greatest = torch.where(any_ < 0, -128, 127).to(torch.int8), torch.where(other < 0, -128, 127).to(torch.int8)
    least = torch.full_like(any_, -128), torch.full_like(other, -128)
    return {"all numbers": (any_, other), "greatest numbers": greatest, "least number": least}


def _floats(device: str, *, spoiled: bool) -> Figure:
    """Return the largest error as a share of the bound: the rounding of the result to bfloat16, and the accumulation."""
    rule = table("tolerances")["gemm_8bit"]
    left = normal(ROWS, DEPTH, seed=32, dtype=FP8)
    right = normal(COLUMNS, DEPTH, seed=33, dtype=FP8)
    result = fp8_product(left.to(device), right.to(device)).cpu()
    if spoiled:
        result = corrupt(result.double() * 1.01)
    exact = product(left, right.t())
    magnitude = product(left.double().abs(), right.double().abs().t())
    allowed = torch.finfo(torch.bfloat16).eps / 2 * exact.abs() + rule["accumulation"] * magnitude
    share = float(((result.double() - exact).abs() / allowed).max().nan_to_num(nan=float("inf")))
    return Figure("fp8, error", share, "share of bound", ceiling=rule["margin"], source=rule["source"])


BATCHED_SHAPES = ((33, 17, 65, 31), (257, 1, 64, 9), (1031, 3, 5, 7), (5, 2, 1037, 9))
"""Batch, rows, depth, columns: odd sizes, decoding, more than 1,024 products, and a depth above that."""
HEADS = 11
"""Heads per sequence of the first batch, which has three sequences."""


@comparison_run
def gemm_batched(device: str, dtype: str) -> Iterator[Comparison]:
    for batch, rows, depth, columns in BATCHED_SHAPES:
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
        left = normal(batch, rows, depth, seed=12, dtype=dtype)
        right = normal(batch, depth, columns, seed=13, dtype=dtype)
        exact = product(left, right)
        lengths = left.double().norm(dim=-1)[..., None] * right.double().norm(dim=-2)[..., None, :]
        result = left.to(device) @ right.to(device)
        yield Comparison(f"a @ b of any numbers, {where}", result, exact, summed(lengths, depth))

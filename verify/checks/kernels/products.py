"""kernels.gemm, gemm_8bit and gemm_batched: matrix products in every precision that models use, of 8-bit numbers, and in batches."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from verify.inputs import DTYPES, FP8, normal
from verify.operators.check import Comparison, comparison_run
from verify.operators.reference import lost_in_sums, product, projected, whole_numbers
from verify.records import CheckContext, CheckResult
from verify.tables import table

Shape = tuple[int, int, int]
"""Rows, depth, columns."""
SMALL: tuple[Shape, ...] = ((64, 512, 192), (127, 1000, 65), (1, 768, 640))
"""One smooth, one odd, one as in decoding a single token. Level `quick` has the first alone."""
THIN: tuple[Shape, ...] = ((1031, 65, 33), (33, 1037, 65), (65, 33, 1049))
"""One side is odd or prime and above 1,024, each in turn; computed with every call that engines use for products."""
WIDE: Shape = (1031, 65, 1049)
WHOLE: Shape = (1031, 1037, 1049)
"""All sides are odd; types without CPU instructions need seconds for it."""
GPU_LARGE = 4096
"""Size of a square product whose tiles keep all multiprocessors busy: 1024 of 128 x 128, several for each."""
SAMPLE = (0, 515, -1)
"""Number of rows and of columns of a large product that are compared element by element."""
WAYS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a @ b": lambda left, right: left @ right,
    "torch.mm": torch.mm,
    "functional.linear": lambda left, right: functional.linear(left, right.t().contiguous()),
    "functional.linear, bias": lambda left, right: functional.linear(left, right.t(), torch.ones_like(right[0])) - 1,
    "a @ b of a batch": lambda left, right: (left[None] @ right)[0],
}


def gemm(context: CheckContext) -> CheckResult:
    return comparison_run(partial(_products, context), dtypes=DTYPES)(context)


def _products(context: CheckContext, device: str, dtype: str) -> Iterator[Comparison]:
    for rows, depth, columns in SMALL if context.includes("standard") else SMALL[:1]:
        left, right = normal(rows, depth, seed=3, dtype=dtype), normal(depth, columns, seed=4, dtype=dtype)
        result = left.to(device) @ right.to(device)
        yield Comparison(f"{rows}x{depth}x{columns}", result, product(left, right), lost_in_sums(left, right))
    if not context.includes("standard"):
        return
    for shape in THIN:
        for name, way in WAYS.items():
            yield _whole(f"{name}, rows of {_text(shape)}", way, dtype, device, shape)
    shapes: tuple[Shape, ...] = (WHOLE, (GPU_LARGE, GPU_LARGE, GPU_LARGE))
    if device == "cpu":
        shapes = (WIDE, WHOLE) if dtype == "float32" or context.includes("full") else (WIDE,)
    for shape in shapes:
        with suppress(torch.OutOfMemoryError):
            yield _whole(f"rows of {_text(shape)}", torch.matmul, dtype, device, shape)
            yield from _sampled(dtype, device, shape)


def _whole(what: str, way: Callable[[Tensor, Tensor], Tensor], dtype: str, device: str, shape: Shape) -> Comparison:
    """Return the comparison of all rows of a product of whole numbers."""
    rows, depth, columns = shape
    left = whole_numbers(rows, depth, seed=8, dtype=dtype).to(device)
    right = whole_numbers(depth, columns, seed=9, dtype=dtype).to(device)
    return Comparison(what, *projected(left, right, way(left, right)))


def _sampled(dtype: str, device: str, shape: Shape) -> Iterator[Comparison]:
    """Yield the comparisons of a few rows and columns of a product of normally distributed numbers."""
    rows, depth, columns = shape
    left, right = normal(rows, depth, seed=8, dtype=dtype), normal(depth, columns, seed=9, dtype=dtype)
    result = (left.to(device) @ right.to(device)).cpu()
    some, others = [row % rows for row in SAMPLE], [column % columns for column in SAMPLE]
    near, far = left[some], right[:, others]
    yield Comparison(f"some rows of {_text(shape)}", result[some], product(near, right), lost_in_sums(near, right))
    yield Comparison(f"some columns of {_text(shape)}", result[:, others], product(left, far), lost_in_sums(left, far))


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


ROWS, DEPTH, COLUMNS = 65, 528, 144
"""Shape of fp8 products; the depth is 16 more than a multiple of every vector width, as odd as GPUs allow."""
INT8_SHAPES: Mapping[str, tuple[Shape, ...]] = {
    "cpu": ((64, 512, 128), (17, 515, 131), (3, 4099, 5), (1, 33, 7)),
    "gpu": ((64, 512, 128), (17, 520, 136), (33, 4104, 8)),
}
"""Shapes of int8 products, some with remainders on each side. GPUs require depths and columns in multiples of 8 and more than 16 rows."""


def gemm_8bit(context: CheckContext) -> CheckResult:
    refused = refuses_fp8(context.device or "cpu")
    kinds = {"int8": _integers} if refused else {"int8": _integers, FP8: _floats}
    remedy = "serve no model with 8-bit weights"
    outcome = comparison_run(lambda device, kind: kinds[kind](device), dtypes=tuple(kinds), remedy=remedy)(context)
    return replace(outcome, evidence={**outcome.evidence, "fp8": refused or "computed"})


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


def _integers(device: str) -> Iterator[Comparison]:
    """Yield products of integers, which are exact in 32 bits: of all numbers, and of the largest ones, whose sums exceed 16 bits."""
    for rows, depth, columns in INT8_SHAPES["cpu" if device == "cpu" else "gpu"]:
        generator = torch.Generator().manual_seed(31)
        left, right = (
            torch.randint(-128, 128, sides, generator=generator, dtype=torch.int8)
            for sides in ((rows, depth), (depth, columns))
        )
        for name, near, far in (
            ("all numbers", left, right),
            ("greatest numbers", _greatest(left), _greatest(right)),
            ("least number", torch.full_like(left, -128), torch.full_like(right, -128)),
        ):
            result = torch._int_mm(near.to(device), far.to(device)).long()  # noqa: SLF001 - torch has no other name for it
            yield Comparison(f"{name}, {rows}x{depth}x{columns}", result, product(near, far))


def _greatest(numbers: Tensor) -> Tensor:
    return torch.where(numbers < 0, -128, 127).to(torch.int8)


def _floats(device: str) -> Iterator[Comparison]:
    """Yield a product whose error may be the rounding of the result to bfloat16, and that of the accumulation."""
    rule = table("tolerances")["gemm_8bit"]
    left, right = normal(ROWS, DEPTH, seed=32, dtype=FP8), normal(COLUMNS, DEPTH, seed=33, dtype=FP8)
    result = fp8_product(left.to(device), right.to(device)).double()
    exact = product(left, right.t())
    magnitude = product(left.double().abs(), right.double().abs().t())
    lost = torch.finfo(torch.bfloat16).eps / 2 * exact.abs() + rule["accumulation"] * magnitude
    yield Comparison(f"{ROWS}x{DEPTH}x{COLUMNS}", result, exact, rule["margin"] * lost)


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
        result = left.to(device) @ right.to(device)
        yield Comparison(f"a @ b of any numbers, {where}", result, exact, lost_in_sums(left, right))

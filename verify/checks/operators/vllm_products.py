"""operators.vllm_products: matrix products of vLLM's own CPU kernels."""

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.reference import product, summed
from verify.operators.vllm import Call, MissingError, OperatorProblem, OperatorSubject, operator, operator_run

ROWS, DEPTH, COLUMNS = 3, 1101, 1307
COPIES = 345
NOT_THERE = "could not create a primitive descriptor"
"""What oneDNN says then; vLLM 0.32.0 catches it (model_executor/layers/utils.py, dispatch_cpu_unquantized_gemm)."""


def _find(name: str, device: str) -> Call:
    make, multiply, release = (
        operator(one, device) for one in ("create_onednn_mm_handler", name, "release_dnnl_matmul_handler")
    )

    def call(result: Tensor, left: Tensor, right: Tensor) -> None:
        try:
            handler = make(right, 1)
        except RuntimeError as error:
            if NOT_THERE not in str(error):
                raise
            kind = str(right.dtype).removeprefix("torch.")
            raise MissingError(f"oneDNN has no product of {kind} for this CPU; vLLM takes torch's") from None
        multiply(result, left, None, torch.tensor(handler))
        release(handler)

    return call


def _problem(dtype: str) -> OperatorProblem:
    left, right = (normal(rows, DEPTH, seed=seed, dtype=dtype) for rows, seed in ((ROWS, 84), (COLUMNS, 85)))
    exact = product(left, right.t())
    magnitude = product(left.abs(), right.abs().t())

    def compute(call: Call, _: str) -> Tensor:
        found = []
        for copies in (1, COPIES):  # few rows, as in decoding, use another kernel than many
            found.append(torch.empty(ROWS * copies, COLUMNS, dtype=left.dtype))
            call(found[-1], left.repeat(copies, 1), right.t())
        return torch.cat(found)

    return OperatorProblem(f"{ROWS * COPIES}x{DEPTH}x{COLUMNS}", compute, exact, dtype, summed(magnitude, DEPTH))


run = operator_run(OperatorSubject("onednn_mm", _problem, dtypes=("float32", "bfloat16"), find=_find))

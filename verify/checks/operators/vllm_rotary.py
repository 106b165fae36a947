"""operators.vllm_rotary: vLLM's rotary embedding."""

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.reference import rotate, steps
from verify.operators.vllm import Call, OperatorProblem, OperatorSubject, operator_run

POSITIONS = (0, 1, 7, 127, 199, 200, 201, 1023, 1024, 4097, 8190, 8191)
"""Positions of each copy of the tokens; the last is the last row of the table."""
COPIES = 32
HEADS, KEY_HEADS, SIZE = 6, 2, 96
"""vLLM's kernel for cards refuses query heads that are no multiple of the key heads; its kernel for CPUs computes them."""
TURNED = 64
"""Rotated elements of a head, as in models with partial rotary embedding; the others stay."""


def _table(dtype: str) -> Tensor:
    """Return (positions, TURNED): a different cosine and sine for each pair in each row.

    In 16 bits they are powers of two: products are then exact, so kernels that round every step and those that do not
    differ only in the last rounding.
    """
    numbers = torch.arange((POSITIONS[-1] + 1) * TURNED).view(-1, TURNED) * 2654435761 % 1009
    values = 1 - numbers / 504.5
    return values if dtype == "float32" else values.sign() * 2.0 ** -(numbers % 7)


def _problem(dtype: str) -> OperatorProblem:
    kind = getattr(torch, dtype)
    angles = _table(dtype).to(kind)
    query, key = (normal(len(POSITIONS), heads, SIZE, seed=74, dtype=dtype) for heads in (HEADS, KEY_HEADS))
    both = torch.cat([query, key], dim=1)
    cos, sin = (part.double() for part in angles[list(POSITIONS)].chunk(2, dim=1))
    exact = torch.cat([_exact(both, cos, sin, interleaved=False), _exact(both, cos, sin, interleaved=True)], dim=1)
    # The two products determine the rounding error, however small their sum is.
    signs = [
        torch.cat([_exact(both.abs(), cos.abs(), sign * sin.abs(), interleaved=way) for way in (False, True)], dim=1)
        for sign in (1, -1)
    ]
    largest = torch.maximum(*signs)

    def compute(call: Call, device: str) -> Tensor:
        positions = torch.tensor(POSITIONS * COPIES, device=device)
        found = []
        for neox in (True, False):
            parts = [part.repeat(COPIES, 1, 1).flatten(1).to(device) for part in (query, key)]
            call(positions, *parts, SIZE, angles.to(device), neox)
            found += [part.unflatten(1, (-1, SIZE)) for part in parts]
        return torch.cat(found, dim=1)

    return OperatorProblem(f"{len(POSITIONS) * COPIES} tokens", compute, exact, dtype, steps(largest))


def _exact(heads: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    moved = rotate(heads[..., :TURNED], cos, sin, interleaved=interleaved)
    return torch.cat([moved, heads[..., TURNED:].double()], dim=2)


run = operator_run([OperatorSubject("rotary_embedding", _problem)])

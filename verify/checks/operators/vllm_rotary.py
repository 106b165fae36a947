"""operators.vllm_rotary: vLLM turns queries and keys by the right angles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verify.inputs import normal
from verify.operator_reference import rotate, steps
from verify.vllm_problems import Call, OperatorProblem, OperatorSubject, check

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS = (0, 1, 7, 127, 199, 200, 201, 1023, 1024, 4097, 8190, 8191)
"""Of each copy of the tokens; the last is the last row of the table."""
COPIES = 32
HEADS, KEY_HEADS, SIZE = 5, 2, 96
TURNED = 64
"""The first elements of a head, as in models of partial rotary embedding; the others stay."""


def _table(dtype: str) -> Tensor:
    """(positions, TURNED): a cosine and a sine for each pair, other ones in each row.

    In 16 bits powers of two: their products are exact, so that kernels which round every step and those which do not are
    both right only to the last rounding.
    """
    import torch

    numbers = torch.arange((POSITIONS[-1] + 1) * TURNED).view(-1, TURNED) * 2654435761 % 1009
    values = 1 - numbers / 504.5
    return values if dtype == "float32" else values.sign() * 2.0 ** -(numbers % 7)


def _problem(dtype: str) -> OperatorProblem:
    import torch

    kind = getattr(torch, dtype)
    angles = _table(dtype).to(kind)
    query, key = (normal(len(POSITIONS), heads, SIZE, seed=74, dtype=dtype) for heads in (HEADS, KEY_HEADS))
    both = torch.cat([query, key], dim=1)
    cos, sin = (part.double() for part in angles[list(POSITIONS)].chunk(2, dim=1))
    exact = torch.cat([_exact(both, cos, sin, interleaved=False), _exact(both, cos, sin, interleaved=True)], dim=1)
    # Rounding costs a share of the two products, however small their sum is.
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
    import torch

    moved = rotate(heads[..., :TURNED], cos, sin, interleaved=interleaved)
    return torch.cat([moved, heads[..., TURNED:].double()], dim=2)


CHECK = check(
    "vllm_rotary",
    "vLLM's own rotary embedding is right at positions up to 8,191, with pairs of halves and of neighbours.",
    [OperatorSubject("rotary_embedding", _problem)],
)

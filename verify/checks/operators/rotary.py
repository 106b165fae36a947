"""operators.rotary: each step of rotary embedding, as engines compute it, up to very large positions."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from verify.inputs import normal
from verify.operators.check import Comparison, comparison_run, copies
from verify.operators.reference import map_elements, rotate, steps

BASE = 500_000.0
DIM, HEADS = 64, 3
POSITIONS = (0, 1, 2, 31, 127, 199, 200, 201, 255, 257, 1023, 1025, 4095, 8193, 32767, 65537, 131071)
"""Positions of the tokens whose heads are rotated."""
STEP, LAST = 1021, 131_072
"""Step between tested positions; a prime, so that all remainders occur."""


def _angles(device: str, dtype: str) -> Iterator[Comparison]:
    if dtype != "float32":  # angles are computed in it, whatever the type of the heads
        return
    speeds = _speeds(device)
    exact = torch.tensor([BASE ** (-i / DIM) for i in range(0, DIM, 2)], dtype=torch.float64)
    yield Comparison("speeds", speeds, exact, steps(exact))
    places = torch.tensor([*POSITIONS, *range(0, LAST, STEP)], dtype=torch.float32)
    many = places.repeat(copies(device, len(places) * DIM // 2)).to(device)
    angles = torch.outer(many, speeds)
    # Compare each step with the result of the step before: rounding of a large angle would hide its error.
    rows = [[place * speed for speed in speeds.cpu().tolist()] for place in places.tolist()]
    yield Comparison("angles", angles, torch.tensor(rows, dtype=torch.float64), 0.0)
    given = angles[: len(places)].cpu()
    cos, sin = (map_elements(function, given) for function in (math.cos, math.sin))
    lost = steps(torch.ones(1))
    yield Comparison("cosines", angles.cos(), cos, lost)
    yield Comparison("sines", angles.sin(), sin, lost)
    polar = torch.view_as_real(torch.polar(torch.ones_like(angles), angles))
    yield Comparison("complex turns", polar, torch.stack([cos, sin], dim=2), lost)


def _turns(device: str, dtype: str) -> Iterator[Comparison]:
    heads = normal(len(POSITIONS), HEADS, DIM, seed=77, dtype=dtype)
    angles = torch.tensor(POSITIONS).float().to(device)[:, None] * _speeds(device)
    cos, sin = angles.cos().to(heads.dtype).cpu(), angles.sin().to(heads.dtype).cpu()
    count = copies(device, heads.numel())
    many, real, imaginary = (part.to(device).repeat(count, 1, 1) for part in (heads, cos[:, None], sin[:, None]))
    exact = rotate(heads, cos, sin)
    # Three rounded operators: two products and their sum.
    minus, plus = (rotate(heads.abs(), cos.abs(), sign * sin.abs()) for sign in (-1, 1))
    products = torch.cat([minus[..., : DIM // 2], plus[..., DIM // 2 :]], dim=-1)
    lost = torch.finfo(heads.dtype).eps / 2 * products
    one, other = many[..., : DIM // 2], many[..., DIM // 2 :]
    result = torch.cat([one * real - other * imaginary, other * real + one * imaginary], dim=-1)
    yield Comparison("turned halves", result, exact, lost)
    pairs = torch.view_as_complex(many.float().unflatten(-1, (-1, 2))) * torch.complex(real.float(), imaginary.float())
    result = torch.view_as_real(pairs).flatten(-2)
    exact = rotate(heads, cos, sin, interleaved=True)
    yield Comparison("turned neighbours", result, exact, steps(torch.ones(1)) * heads.double().abs().amax())


def _speeds(device: str) -> Tensor:
    """Return the rotation of each pair of a head from one position to the next, in float32."""
    speeds: Tensor = 1 / BASE ** (torch.arange(0, DIM, 2, device=device).float() / DIM)
    return speeds


run = comparison_run(_angles, _turns)

"""Reference results of operators and matrix products from Python's arithmetic, and the error that rounding allows.

torch only holds the numbers and compares them, so a fault in one of its operators does not reach the reference. The
exception is `product` for larger matrices, which uses torch's multiplication and addition, but no matrix product. Python is
slow, so a reference has a few thousand values. The operator gets them many times, at different positions, and `share`
compares every copy.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from verify.tables import table

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32: the relative error of one float32 operation."""
HALF = 1 << 20
"""Random factors of the test of a whole product are between -HALF and HALF."""


def map_elements(function: Callable[[float], float], values: Tensor) -> Tensor:
    """Apply a Python function to every element; return float64 in the same shape."""
    found = [function(value) for value in values.flatten().tolist()]
    return torch.tensor(found, dtype=torch.float64).reshape(values.shape)


def sigmoid(value: float) -> float:
    """Return 1 / (1 + exp(-value)) without overflow."""
    return 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))


def silu(value: float) -> float:
    """Return value sigmoid(value)."""
    return value * sigmoid(value)


def gelu(value: float) -> float:
    """Return value (1 + erf(value / sqrt 2)) / 2, the exact form."""
    return 0.5 * value * math.erfc(-value / math.sqrt(2))


def gelu_tanh(value: float) -> float:
    """Return value (1 + tanh(sqrt(2 / pi) (value + 0.044715 value cubed))) / 2.

    Source: Hendrycks and Gimpel, arXiv 1606.08415.
    """
    return 0.5 * value * (1 + math.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))


def softmax(rows: Tensor) -> Tensor:
    """Return the softmax of each row of (rows, columns) in float64. A row needs one finite value."""
    return _of_rows(lambda row: [math.exp(value) for value in _log_softmax(row)], rows)


def log_softmax(rows: Tensor) -> Tensor:
    """Return the logarithm of the softmax."""
    return _of_rows(_log_softmax, rows)


def rms_norm(rows: Tensor, weight: Tensor | None = None, *, epsilon: float) -> Tensor:
    """Divide each row of (rows, columns) by the root of its mean square plus epsilon; multiply by the weight of the column."""
    weights = [1.0] * rows.shape[1] if weight is None else weight.tolist()

    def norm(row: Sequence[float]) -> list[float]:
        root = math.sqrt(math.fsum(value * value for value in row) / len(row) + epsilon)
        return [value / root * factor for value, factor in zip(row, weights, strict=True)]

    return _of_rows(norm, rows)


def layer_norm(rows: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float) -> Tensor:
    """Normalize each row of (rows, columns) to mean 0 and variance 1; apply weight and bias of the column."""
    shifts = [0.0] * rows.shape[1] if bias is None else bias.tolist()

    def centred(row: Sequence[float]) -> list[float]:
        mean = math.fsum(row) / len(row)
        return [value - mean for value in row]

    def shifted(row: Sequence[float]) -> list[float]:
        return [value + shift for value, shift in zip(row, shifts, strict=True)]

    return _of_rows(shifted, rms_norm(_of_rows(centred, rows), weight, epsilon=epsilon))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Return the rotary embedding of (tokens, heads, dim) by (tokens, dim / 2) cosines and sines, in float64.

    Pairs are elements i and i + dim / 2 (GPT-NeoX, Llama), or neighbours if `interleaved` (GPT-J).
    """
    half = heads.shape[2] // 2
    found = []
    for token, real, imaginary in zip(heads.tolist(), cos.tolist(), sin.tolist(), strict=True):
        for head in token:
            turn = [0.0] * len(head)
            for i in range(half):
                one, other = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
                turn[one] = head[one] * real[i] - head[other] * imaginary[i]
                turn[other] = head[other] * real[i] + head[one] * imaginary[i]
            found.append(turn)
    return torch.tensor(found, dtype=torch.float64).reshape(heads.shape)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right of (..., rows, depth) and (..., depth, columns) by multiplications and sums only.

    Whole numbers are computed in int64, which is exact, all others in float64.
    """
    wide = torch.float64 if left.dtype.is_floating_point else torch.int64
    near, far = left.to(wide), right.to(wide).transpose(-1, -2).contiguous()
    rows = [(near[..., row : row + 1, :] * far).sum(-1) for row in range(near.shape[-2])]
    return torch.stack(rows, dim=-2)


def share(result: Tensor, exact: Tensor, lost: Tensor | float = 0.0, *, truncated: bool = False) -> float:
    """Return the largest error of an element as a share of its bound; NaN and infinity give infinity.

    The result may repeat `exact`, which is float64, along its first dimension. `lost` is the absolute error allowed before the last
    rounding, a number or in the shape of `exact`; see `steps` and `summed`. The last rounding costs half a unit in the last place of
    the result's type, a whole one where the operator cuts its results (`truncated`). Near the smallest numbers of a type, float32's
    smallest normal number may become zero.
    """
    kind = torch.finfo(result.dtype)
    least = max(kind.smallest_normal * kind.eps, torch.finfo(torch.float32).smallest_normal)
    allowed = kind.eps / (1 if truncated else 2) * exact.abs() + lost + least
    errors = (result.detach().cpu().double().reshape(-1, *exact.shape) - exact).abs() / allowed
    return float(errors.max().nan_to_num(nan=math.inf, posinf=math.inf))


def steps(magnitude: Tensor, functions: int = 1) -> Tensor:
    """Return the error of a few float32 operations on a magnitude, including `functions` calls such as exp and tanh."""
    return magnitude.double().abs() * (table("tolerances")["operators"]["units"] * functions * UNIT)


def summed(magnitude: Tensor, terms: int) -> Tensor:
    """Return the error of a float32 sum of `terms` terms of a magnitude."""
    return magnitude.double().abs() * (table("tolerances")["operators"]["spread"] * math.sqrt(terms) * UNIT)


def _of_rows(function: Callable[[list[float]], list[float]], rows: Tensor) -> Tensor:
    return torch.tensor([function(row) for row in rows.tolist()], dtype=torch.float64)


def _log_softmax(row: Sequence[float]) -> list[float]:
    highest = max(row)
    total = math.log(math.fsum(math.exp(value - highest) for value in row))
    return [value - highest - total for value in row]


def whole_numbers(*shape: int, seed: int, dtype: str) -> Tensor:
    """Return a matrix of -1, 0 and 1 in which half of the elements are zero.

    Products with depths up to 4,096 stay below 256 (eight standard deviations), which bfloat16 and float16 hold exactly. No type
    loses anything in any order of additions.
    """
    generator = torch.Generator().manual_seed(seed)
    thrown = torch.randint(0, 4, shape, generator=generator)
    return (thrown.eq(0).int() - thrown.eq(1).int()).to(getattr(torch, dtype))


def projected(left: Tensor, right: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a product of `whole_numbers`, and those of the right product, each multiplied by the same random numbers.

    They differ for a wrong row but for one in two million (Freivalds: left (right r) = result r for a random r). Computed exactly, in
    float64, on the device of the tensors; the expected ones are on the CPU.
    """
    generator = torch.Generator().manual_seed(82)
    factors = torch.randint(-HALF, HALF, (right.shape[1],), generator=generator).double().to(right.device)
    once = (right.double() * factors).sum(dim=1)
    return (result.double() * factors).sum(dim=1), (left.double() * once).sum(dim=1).cpu()


def lost_in_sums(left: Tensor, right: Tensor) -> Tensor:
    """Return the error of the float32 additions in left @ right, in which every kernel accumulates; see `summed`."""
    near, far = left.double().square().sum(dim=-1).sqrt(), right.double().square().sum(dim=-2).sqrt()
    return summed(near[..., :, None] * far[..., None, :], left.shape[-1])


RARE = 5.0
"""Tokens with fewer expected draws are counted together, because Pearson's test needs larger counts."""


def truncated_probabilities(logits: Sequence[float], k: int, p: float) -> list[float]:
    """Return the probability of each token after top-k and then top-p: the fewest of the k likeliest that hold p of their sum."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])[:k]
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    total, held, number = math.fsum(weights), 0.0, 0
    while number < len(weights) and held < p * total:
        held += weights[number]
        number += 1
    found = [0.0] * len(logits)
    for token, weight in zip(order[:number], weights, strict=False):
        found[token] = weight / held
    return found


def chi_square_share(counts: Mapping[int, int], probabilities: Sequence[float]) -> float:
    """Return Pearson's chi square of the token frequencies as a share of `chi_square_bound`.

    Infinity if a drawn token does not exist or has no probability.
    """
    draws = sum(counts.values())
    possible = {token: draws * share for token, share in enumerate(probabilities) if share > 0}
    if not draws or not counts.keys() <= possible.keys():
        return math.inf
    rare = [token for token, expected in possible.items() if expected < RARE]
    cells = [(counts.get(token, 0), expected) for token, expected in possible.items() if expected >= RARE]
    if rare:
        cells.append((sum(counts.get(token, 0) for token in rare), math.fsum(possible[token] for token in rare)))
    square = math.fsum((count - expected) ** 2 / expected for count, expected in cells)
    return square / chi_square_bound(len(cells) - 1)


def chi_square_bound(freedom: int) -> float:
    """Return the chi square that a correct device almost never exceeds, for a number of degrees of freedom.

    It is k + 2 sqrt(k t) + 2 t for k degrees, exceeded with a probability of at most exp(-t).
    """
    t = -math.log(table("tolerances")["sampling"]["false_alarm"])
    return freedom + 2 * math.sqrt(freedom * t) + 2 * t

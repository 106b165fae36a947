"""operators.exp, activation, softmax, norm, lookup, rotary and sampling: torch's functions of elements and rows, and what engines do with tokens."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import nlargest

import torch
from torch import Tensor
from torch.nn import LayerNorm, functional

from verify.inputs import normal
from verify.operators import reference
from verify.operators.check import Comparison, comparison_run, copies

EXPONENTS, VALUES = 4099, 2053
"""Primes, so that each value occurs at every position of a vector."""
EDGES = (0.0, -0.0, 1.0, -1.0, 10.5, -16.0, -80.0, -math.inf)
"""In addition to normal numbers. None above 11, because float16 cannot hold the result."""
SOFTMAX_SHAPES = ((7, 129), (3, 1500), (2, 32003))
"""Rows and columns. Kernels differ by length: short rows, longer ones, and the logits of two tokens."""
NORM_ROWS = 3
WIDTHS = (515, 1024)
"""Odd widths and multiples of every vector width: GPUs have kernels for each."""
SIZES = ((1.0, 1e-5), (2e-3, 1e-5), (1e-3, 1e-6))
"""Standard deviation of the values, and epsilon: the mean square is larger, or about equal."""


@comparison_run
def exp(device: str, dtype: str) -> Iterator[Comparison]:
    values = (normal(EXPONENTS, seed=71, dtype=dtype) * 4).clamp(max=10.5)
    values[-len(EDGES) :] = torch.tensor(EDGES)
    exact = reference.map_elements(math.exp, values)
    lost = reference.steps(exact)
    many = values.to(device).repeat(copies(device, EXPONENTS))
    yield Comparison("torch.exp", torch.exp(many), exact, lost)
    apart = torch.stack([many, many], dim=1)[:, 0]
    yield Comparison("exp of elements that lie apart", torch.exp(apart), exact, lost)
    yield Comparison("exp in place", many.exp_(), exact, lost)


@comparison_run
def activation(device: str, dtype: str) -> Iterator[Comparison]:
    values = normal(VALUES, seed=76, dtype=dtype) * 3
    many = values.to(device).repeat(copies(device, VALUES))
    swish = reference.map_elements(reference.silu, values)
    yield Comparison("functional.silu", functional.silu(many), swish, reference.steps(swish))
    yield Comparison("silu in place", functional.silu(many.clone(), inplace=True), swish, reference.steps(swish))
    exact = reference.map_elements(reference.sigmoid, values)
    yield Comparison("torch.sigmoid", torch.sigmoid(many), exact, reference.steps(exact))
    for name, function, approximate in (
        ("gelu", reference.gelu, "none"),
        ("gelu by tanh", reference.gelu_tanh, "tanh"),
    ):
        # 1 + erf and 1 + tanh cancel for values far below zero.
        result = functional.gelu(many, approximate=approximate)
        yield Comparison(name, result, reference.map_elements(function, values), reference.steps(values))
    gates = torch.stack([many.view(-1, VALUES), many.view(-1, VALUES).flip(1)], dim=1).flatten(1)
    result = functional.silu(gates[:, :VALUES]) * gates[:, VALUES:]
    numbers = values.tolist()
    pairs = zip(numbers, reversed(numbers), strict=True)
    exact = torch.tensor([reference.silu(value) * gate for value, gate in pairs], dtype=torch.float64)
    # Two operators: the first result is rounded before the second operator.
    lost = torch.finfo(values.dtype).eps / 2 * exact.abs() + reference.steps(exact)
    yield Comparison("gated silu", result, exact, lost)


@comparison_run
def softmax(device: str, dtype: str) -> Iterator[Comparison]:
    for rows, columns in SOFTMAX_SHAPES:
        # Every seventh score of the second row is masked, those of the last row are far from zero.
        values = normal(rows, columns, seed=72, dtype=dtype) * 3
        values[1, ::7] = -math.inf
        values[-1] += 60
        exact = reference.softmax(values)
        below = values.double().amax(dim=1, keepdim=True) - values.double()
        # The score minus the maximum is rounded before the exponential.
        lost = reference.steps(exact) + reference.summed(exact, columns) + exact * below.clamp(max=1e4) * reference.UNIT
        many = values.to(device).repeat(copies(device, values.numel()), 1)
        where = f"of {columns}"
        yield Comparison(f"functional.softmax {where}", functional.softmax(many, dim=-1), exact, lost)
        yield Comparison(f"torch.softmax {where}", torch.softmax(many, 1), exact, lost)
        whole = many.softmax(dim=-1, dtype=torch.float32)
        yield Comparison(f"Tensor.softmax in float32 {where}", whole, exact, lost)
        seen, one = values[:1], torch.ones(1)
        exact = reference.log_softmax(seen)
        many = seen.to(device).repeat(copies(device, seen.numel()), 1)
        result = many.log_softmax(dim=-1, dtype=torch.float32)
        yield Comparison(
            f"Tensor.log_softmax {where}", result, exact, reference.steps(exact) + reference.summed(one, columns)
        )


@comparison_run
def norm(device: str, dtype: str) -> Iterator[Comparison]:
    for width in WIDTHS:
        weight, bias = (normal(width, seed=seed, dtype=dtype) + 1 for seed in (73, 74))
        there, shift = weight.to(device), bias.to(device)
        for size, epsilon in SIZES:
            values = normal(NORM_ROWS, width, seed=75, dtype=dtype) * size
            many = values.to(device).repeat(copies(device, values.numel()), 1)
            where = f"of {width} values about {size:g}"
            exact = reference.layer_norm(values, weight, bias, epsilon=epsilon)
            lost = (
                reference.steps(exact - bias) + reference.steps(bias) + reference.summed(_largest(exact - bias), width)
            )
            result = functional.layer_norm(many, (width,), there, shift, epsilon)
            yield Comparison(f"layer norm {where}", result, exact, lost)
            plain = LayerNorm(width, epsilon, elementwise_affine=False)(many)
            exact = reference.layer_norm(values, epsilon=epsilon)
            yield Comparison(
                f"layer norm without weights {where}",
                plain,
                exact,
                reference.steps(exact) + reference.summed(_largest(exact), width),
            )
            exact = reference.rms_norm(values, weight, epsilon=epsilon)
            lost = reference.steps(exact) + reference.summed(exact, width)
            yield Comparison(f"RMS norm by its formula {where}", _formula(many, there, epsilon), exact, lost)
            # Releases of torch differ in whether they round before the weights are applied.
            twice = lost + torch.finfo(values.dtype).eps / 2 * exact.abs()
            yield Comparison(f"RMS norm {where}", functional.rms_norm(many, (width,), there, epsilon), exact, twice)


def _largest(exact: Tensor) -> Tensor:
    """Return the largest value of each row, which limits the rounding of the subtracted mean."""
    return exact.abs().amax(dim=1, keepdim=True)


def _formula(values: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Compute RMS norm as engines do without a kernel: in float32, rounded at the end."""
    wide = values.float()
    result: Tensor = wide * torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + epsilon) * weight.float()
    return result.to(values.dtype)


ROW = 32_003
PEAKS = ((0,), (ROW - 1,), (1, 16_384), (16_383, 16_385, 32_002), (0, ROW - 1), (4097,), (32_000, 32_001))
"""Positions of the largest numbers of each row: at its ends, in the middle, and several equal ones."""
TABLE, WIDTH = 1031, 67
IDS = (0, TABLE - 1, 1, TABLE - 2, 512, 511, 513, 0, TABLE - 1, 255, 256, 257, 640)


def _largest_of(device: str, dtype: str) -> Iterator[Comparison]:
    """Expect the first of equal elements: torch.argmax documents it, and greedy answers depend on it."""
    rows = normal(len(PEAKS), ROW, seed=78, dtype=dtype).clamp(max=3)
    for row, places in enumerate(PEAKS):
        rows[row, list(places)] = 4.0
    many = rows.to(device).repeat(copies(device, rows.numel()), 1)
    first = torch.tensor([min(places) for places in PEAKS])
    yield Comparison("argmax", many.argmax(dim=-1), first)
    values, places = many.max(dim=-1)
    yield Comparison("place of the maximum", places, first)
    yield Comparison("maximum", values, torch.full((len(PEAKS),), 4.0))
    count = 4
    values, places = many[-len(PEAKS) :].topk(count, dim=-1)
    exact = torch.tensor([nlargest(count, row) for row in rows.tolist()])
    yield Comparison("largest few", values, exact)
    there = rows.gather(1, places.cpu())
    yield Comparison("places of the largest few", there, exact)


def _fetched(device: str, dtype: str) -> Iterator[Comparison]:
    """Return elements whose value is their position; bfloat16 holds whole numbers up to 256."""

    def element(row: int, column: int) -> int:
        return (row * 31 + column * 7) % 251

    table = torch.arange(TABLE)[:, None] * 31 + torch.arange(WIDTH) * 7
    weights, ids = (table % 251).to(device, getattr(torch, dtype)), torch.tensor(IDS)
    exact = torch.tensor([[element(row, column) for column in range(WIDTH)] for row in IDS])
    many = ids.to(device).repeat(copies(device, exact.numel()))
    yield Comparison("embedding", functional.embedding(many, weights), exact)
    yield Comparison("rows by index", weights[many], exact)
    yield Comparison("index_select", weights.index_select(0, many), exact)
    columns = (many * 3) % WIDTH
    picked = torch.tensor([element(row, row * 3 % WIDTH) for row in IDS])
    yield Comparison("gather", weights[many].gather(1, columns[:, None])[:, 0], picked)
    # Write rows to positions of another table, as into a cache, and read them from there.
    other, places = torch.zeros_like(weights), many[: len(IDS)]
    other[places] = weights[places]
    yield Comparison("rows put in their places", other.index_select(0, places), exact)


lookup = comparison_run(_largest_of, _fetched)


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
    yield Comparison("speeds", speeds, exact, reference.steps(exact))
    places = torch.tensor([*POSITIONS, *range(0, LAST, STEP)], dtype=torch.float32)
    many = places.repeat(copies(device, len(places) * DIM // 2)).to(device)
    angles = torch.outer(many, speeds)
    # Compare each step with the result of the step before: rounding of a large angle would hide its error.
    rows = [[place * speed for speed in speeds.cpu().tolist()] for place in places.tolist()]
    yield Comparison("angles", angles, torch.tensor(rows, dtype=torch.float64), 0.0)
    given = angles[: len(places)].cpu()
    cos, sin = (reference.map_elements(function, given) for function in (math.cos, math.sin))
    lost = reference.steps(torch.ones(1))
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
    exact = reference.rotate(heads, cos, sin)
    # Three rounded operators: two products and their sum.
    minus, plus = (reference.rotate(heads.abs(), cos.abs(), sign * sin.abs()) for sign in (-1, 1))
    products = torch.cat([minus[..., : DIM // 2], plus[..., DIM // 2 :]], dim=-1)
    lost = torch.finfo(heads.dtype).eps / 2 * products
    one, other = many[..., : DIM // 2], many[..., DIM // 2 :]
    result = torch.cat([one * real - other * imaginary, other * real + one * imaginary], dim=-1)
    yield Comparison("turned halves", result, exact, lost)
    pairs = torch.view_as_complex(many.float().unflatten(-1, (-1, 2))) * torch.complex(real.float(), imaginary.float())
    result = torch.view_as_real(pairs).flatten(-2)
    exact = reference.rotate(heads, cos, sin, interleaved=True)
    yield Comparison("turned neighbours", result, exact, reference.steps(torch.ones(1)) * heads.double().abs().amax())


def _speeds(device: str) -> Tensor:
    """Return the rotation of each pair of a head from one position to the next, in float32."""
    speeds: Tensor = 1 / BASE ** (torch.arange(0, DIM, 2, device=device).float() / DIM)
    return speeds


rotary = comparison_run(_angles, _turns)


TOKENS = 8
DRAWS = 1_000_000
"""Number of draws: enough to show probabilities that are off by 2 %."""
RACES = 100_000
"""Number of draws by the method of engines on GPUs, which needs a random number per token."""
ROWS, VOCABULARY = 5, 2003
TOP_K, TOP_P = 50, 0.8


def _drawn(device: str, _dtype: str) -> Iterator[Comparison]:
    """Use a fixed seed: a device that passes once causes no false alarm later."""
    weights = [1 / (place + 1) for place in range(TOKENS - 1)]
    shares = [weight / math.fsum(weights) for weight in weights] + [0.0]
    torch.manual_seed(79)
    chances = torch.tensor(shares).to(device)
    once = torch.multinomial(chances, DRAWS, replacement=True)
    yield _as_often("multinomial", once, shares)
    apart = chances.repeat(3, 1)
    rows = torch.multinomial(apart, DRAWS // 10, replacement=True)
    yield _as_often("multinomial, last row", rows[-1], shares)
    race = torch.empty(RACES, TOKENS, device=device).exponential_()
    yield _as_often("race of exponentials", (chances / race).argmax(dim=-1), shares)


def _as_often(what: str, drawn: Tensor, shares: Sequence[float]) -> Comparison:
    """Compare Pearson's chi square of the frequencies with a bound that is exceeded once in a thousand million times."""
    share = reference.chi_square_share(Counter(drawn.cpu().tolist()), shares)
    return Comparison(f"how often tokens come: {what}", torch.tensor(share), torch.zeros(()), lost=1.0)


def _left_out(device: str, _dtype: str) -> Iterator[Comparison]:
    """Return the probabilities after top-k and top-p from sorted rows and running sums, as engines filter them."""
    logits = normal(ROWS, VOCABULARY, seed=80, dtype="float32") * 3
    there = logits.to(device)
    for name, k, p in (("top-k", TOP_K, 1.0), ("top-p", VOCABULARY, TOP_P), ("top-k and top-p", TOP_K, TOP_P)):
        kept = [
            {token for token, share in enumerate(reference.truncated_probabilities(row, k, p)) if share}
            for row in logits.tolist()
        ]
        masked = logits.clone()
        for row, tokens in enumerate(kept):
            masked[row, [token for token in range(VOCABULARY) if token not in tokens]] = -math.inf
        exact = reference.softmax(masked)
        below = (logits.double().amax(dim=1, keepdim=True) - logits.double()) * exact
        result = _filtered(there, k, p)
        yield Comparison(
            name, result, exact, reference.steps(exact) + reference.steps(below) + reference.summed(exact, VOCABULARY)
        )
        drawn = torch.multinomial(result, 200, replacement=True)
        allowed = torch.zeros(ROWS, VOCABULARY)
        for row, tokens in enumerate(kept):
            allowed[row, list(tokens)] = 1
        yield Comparison(f"tokens drawn after {name}", allowed.gather(1, drawn.cpu()), torch.ones(ROWS, 200))


def _filtered(logits: Tensor, k: int, p: float) -> Tensor:
    values, places = logits.sort(dim=-1, descending=False)
    values = values.masked_fill(values < values[:, -k:][:, :1], -math.inf)
    running = values.softmax(dim=-1).cumsum(dim=-1)
    mask = running <= 1 - p
    mask[:, -1] = False
    values = values.masked_fill(mask, -math.inf)
    found: Tensor = torch.empty_like(values).scatter_(dim=-1, index=places, src=values).softmax(dim=-1)
    return found


sampling = comparison_run(_drawn, _left_out, dtypes=("float32",))

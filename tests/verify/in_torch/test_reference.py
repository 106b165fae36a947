"""The reference equals the formula for every division into tiles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify.in_torch.altered_kernels import Broken
from verify.attention.cases import Case, Inputs, attention, bottom_right
from verify.attention.providers import cache, page_table


def gather_pages(kept: Any, table: Any, lengths: list[int]) -> Any:
    """Return the packed (tokens, heads, dim) keys or values of a paged cache.

    `kept` is (pages, page size, heads, dim), `table` (sequences, pages) names each sequence's pages in their order.
    """
    whole = [kept[row].flatten(0, 1) for row in table.long()]
    return torch.cat([rows[:length] for rows, length in zip(whole, lengths, strict=True)])


def formula(query: Any, key: Any, value: Any, visible: Any, *, softcap: float = 0.0, slopes: Any = None) -> Any:
    """softmax(q k' s) v in float64, row by row, with the whole matrix of scores in memory; a query without keys gives zeros."""
    groups = query.shape[1] // key.shape[1]
    key = key.double().repeat_interleave(groups, 1)
    value = value.double().repeat_interleave(groups, 1)
    scores = query.double() @ key.transpose(2, 3) * query.shape[3] ** -0.5
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        place = torch.arange(query.shape[2])[:, None] + key.shape[2] - query.shape[2]
        scores = scores - slopes[:, None, None] * (place - torch.arange(key.shape[2])).abs()
    scores = scores.masked_fill(~visible, -math.inf)
    return torch.softmax(scores, 3).nan_to_num(nan=0.0) @ value


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    queries, keys, dim = draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 24))
    key_heads, groups, batch = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([1e-3, 1.0, 5.0]))
    query = torch.randn(batch, key_heads * groups, queries, dim, generator=generator, dtype=torch.float64) * spread
    key = torch.randn(batch, key_heads, keys, dim, generator=generator, dtype=torch.float64)
    value = torch.randn(batch, key_heads, keys, dim + 1, generator=generator, dtype=torch.float64)
    diagonal = draw(st.one_of(st.none(), st.just(bottom_right(queries, keys)), st.integers(-45, 45)))
    keep = None
    if draw(st.booleans()):
        keep = torch.rand(batch, 1, queries, keys, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.7]))
    visible = torch.ones(queries, keys, dtype=torch.bool)
    if diagonal is not None:
        visible = visible.tril(diagonal)
    first = draw(st.one_of(st.none(), st.integers(-45, 45)))
    if first is not None:
        visible = visible.triu(first)
    visible = visible.expand(batch, 1, queries, keys) & (True if keep is None else keep)
    slopes = torch.rand(key_heads * groups, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    return {
        "qkv": (query, key, value),
        "visible": visible,
        "masks": {"diagonal": diagonal, "first": first, "keep": keep},
        "scores": {"softcap": draw(st.sampled_from([0.0, 0.5, 20.0])), "slopes": slopes},
    }


@given(problems(), st.integers(1, 50))
def test_any_division_of_any_shape_into_tiles_equals_the_formula(problem: dict[str, Any], block: int) -> None:
    query, key, value = problem["qkv"]
    expected = formula(query, key, value, problem["visible"], **problem["scores"])
    got = attention(query, key, value, **problem["masks"], **problem["scores"], block=block)
    assert got.dtype == torch.float64
    assert (got - expected).abs().max() <= 1e-10


def heads(data: st.DataObject, length: int) -> tuple[Any, Any, Any]:
    """Query, key and value of one length, whose key heads are as many as the query heads, fewer (GQA), or one (MQA)."""
    key_heads, groups = data.draw(st.sampled_from([(4, 1), (2, 2), (1, 4)]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    query = torch.randn(2, key_heads * groups, length, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(2, key_heads, length, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    return query, key, value


@given(st.data(), st.integers(1, 40), st.one_of(st.none(), st.integers(0, 20)))
def test_decoding_with_a_cache_of_keys_equals_causal_attention_to_all(
    data: st.DataObject, length: int, window: int | None
) -> None:
    """Token by token, and with a first part that is computed at once; causal and with a sliding window."""
    query, key, value = heads(data, length)
    whole = attention(query, key, value, diagonal=0, first=None if window is None else -window, block=7)
    done = data.draw(st.integers(0, length))
    for begin, end in (*([(0, done)] if done else []), *((at, at + 1) for at in range(done, length))):
        corner = bottom_right(end - begin, end)
        first = None if window is None else corner - window
        part = attention(query[:, :, begin:end], key[:, :, :end], value[:, :, :end], diagonal=corner, first=first)
        assert (part - whole[:, :, begin:end]).abs().max() <= 1e-10


@given(st.data(), st.integers(1, 5), st.integers(1, 9), st.booleans())
def test_block_sparse_attention_equals_attention_to_the_chosen_blocks_alone(
    data: st.DataObject, blocks: int, size: int, causal: bool
) -> None:
    query, key, value = heads(data, blocks * size)
    chosen = [data.draw(st.sets(st.integers(0, blocks - 1), min_size=1)) for _ in range(blocks)]
    layout = torch.tensor([[block in row for block in range(blocks)] for row in chosen])
    keep = layout.repeat_interleave(size, 0).repeat_interleave(size, 1)[None, None]
    got = attention(query, key, value, keep=keep, diagonal=0 if causal else None, block=4)
    for place, row in enumerate(chosen):
        at = torch.arange(place * size, (place + 1) * size)
        seen = torch.cat([torch.arange(block * size, (block + 1) * size) for block in sorted(row)])
        visible = seen[None, :] <= at[:, None] if causal else torch.ones(size, len(seen), dtype=torch.bool)
        alone = formula(query[:, :, at], key[:, :, seen], value[:, :, seen], visible)
        assert (got[:, :, at] - alone).abs().max() <= 1e-10


@given(problems(), st.sampled_from([1e4, 1e8, 1e150]), st.integers(1, 50))
def test_results_of_extreme_scores_stay_averages_of_the_values(
    problem: dict[str, Any], scale: float, block: int
) -> None:
    """Even if exp() of a score would overflow, every output is between the values that its query may see."""
    query, key, value = problem["qkv"]
    got = attention(query, key, value, **problem["masks"], scale=scale, block=block)
    assert torch.isfinite(got).all()
    groups = query.shape[1] // key.shape[1]
    seen = problem["visible"][..., None]
    values = value.repeat_interleave(groups, 1)[:, :, None]
    highest = values.masked_fill(~seen, -math.inf).amax(3)
    lowest = values.masked_fill(~seen, math.inf).amin(3)
    sees = problem["visible"].any(3)[..., None]
    assert torch.where(sees, (got <= highest + 1e-9) & (got >= lowest - 1e-9), got == 0).all()


def test_the_reference_uses_low_precision_inputs_unchanged() -> None:
    query = torch.randn(1, 2, 5, 8).bfloat16()
    assert torch.equal(attention(query, query, query), attention(query.double(), query.double(), query.double()))


@settings(max_examples=25)
@given(problems(), st.integers(1, 50))
def test_gradients_equal_those_of_the_formula_for_any_tiles(problem: dict[str, Any], block: int) -> None:
    visible = problem["visible"] | ~problem["visible"].any(
        3, keepdim=True
    )  # in other cases the formula has no gradient
    here, there = ([part.clone().requires_grad_() for part in problem["qkv"]] for _ in range(2))
    tiled = attention(here[0], here[1], here[2], keep=visible, **problem["scores"], block=block)
    whole = formula(there[0], there[1], there[2], visible, **problem["scores"])
    weights = torch.cos(torch.arange(tiled.numel(), dtype=torch.float64)).view_as(tiled)
    pairs = zip(torch.autograd.grad(tiled, here, weights), torch.autograd.grad(whole, there, weights), strict=True)
    assert max(float((one - other).abs().max()) for one, other in pairs) <= 1e-10


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 30)),
    st.sampled_from([1, 4, 16]),
)
def test_packed_and_paged_sequences_equal_single_ones(
    lengths: list[tuple[int, int]], causal: bool, window: int | None, page: int
) -> None:
    """The cache has the same keys in scattered pages; the content between them has no effect."""
    queries, keys = ([pair[side] for pair in lengths] for side in (0, 1))
    generator = torch.Generator().manual_seed(sum(queries) * 31 + sum(keys))
    query = torch.randn(sum(queries), 4, 8, generator=generator, dtype=torch.float64)
    key, value = (torch.randn(sum(keys), 2, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    table = page_table(keys, page, query.device)
    assert sorted(table.flatten().tolist()) == list(range(table.numel()))
    far, wide = (gather_pages(cache(part, keys, table, page), table, keys) for part in (key, value))
    case = Case("packed", 4, 2, tuple(lengths), 8, causal=causal, window=window, softcap=3.0, alibi=True)
    slopes = case.slopes()
    assert slopes is not None
    got = case.exact(Inputs(query, far, wide))
    begin, start = 0, 0
    for one, two in lengths:
        place = torch.arange(one)[:, None] + two - one - torch.arange(two)
        visible = (place >= 0) if causal else torch.ones(one, two, dtype=torch.bool)
        if window is not None:
            visible = visible & (place <= window)
        rows, columns = slice(begin, begin + one), slice(start, start + two)
        q, k, v = (part.transpose(0, 1)[None] for part in (query[rows], key[columns], value[columns]))
        expected = formula(q, k, v, visible, softcap=3.0, slopes=slopes.double())[0].transpose(0, 1)
        assert (got[begin : begin + one] - expected).abs().max() <= 1e-10
        begin, start = begin + one, start + two


def test_the_reference_does_not_use_torchs_exponential() -> None:
    """`operators.exp` checks torch's exponential; where that is wrong, the reference stays correct."""
    generator = torch.Generator().manual_seed(12)
    query, key, value = (torch.randn(1, 2, 40, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    exact = formula(query, key, value, torch.ones(1, 1, 40, 40, dtype=torch.bool))
    with Broken("aten::exp", spared=()) as broken:
        assert float(torch.exp(torch.zeros(1, dtype=torch.float64))) == pytest.approx(1.01)
        result = attention(query, key, value, block=16)
    assert broken.hits == 1
    assert (result - exact).abs().max() < 1e-13

"""The tolerances let a right kernel pass and catch one that is off by one part in a hundred."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verify import reference
from verify.attention_cases import CASES, Case, flash, plain
from verify.checks.attention import sdpa_flash, sdpa_kernel
from verify.checks.kernels.gemm import error_share
from verify.inputs import DTYPES, normal, spoil


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 60), depth=st.integers(1, 300), columns=st.integers(40, 60), seed=st.integers(0, 99))
def test_a_right_product_is_within_its_bound_and_one_off_by_a_hundredth_is_not(
    dtype: str, rows: int, depth: int, columns: int, seed: int
) -> None:
    left, right = normal(rows, depth, seed=seed, dtype=dtype), normal(depth, columns, seed=seed + 1, dtype=dtype)
    product = left @ right
    assert error_share(left, right, product) <= 1
    assert error_share(left, right, product * 1.01) > 1
    if dtype != "bfloat16":  # whose own steps are up to a hundredth wide: one element alone may round back
        assert error_share(left, right, spoil(product)) > 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_product_that_is_no_number_is_infinitely_wrong(bad: float) -> None:
    left, right = normal(4, 5, seed=1, dtype="float32"), normal(5, 6, seed=2, dtype="float32")
    product = left @ right
    product[1, 2] = bad
    assert error_share(left, right, product) == float("inf")


def errors(case: Case, dtype: str, change: Any) -> tuple[sdpa_flash.Errors, sdpa_flash.Errors]:
    query, key, value = case.inputs(dtype)
    exact = reference.attention(query, key, value, diagonal=case.diagonal)
    ours = change(flash(case, query, key, value))
    return sdpa_flash.distance(ours, exact), sdpa_flash.distance(plain(case, query, key, value), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_flash_kernel_is_within_the_tolerance(case: Case, dtype: str) -> None:
    assert sdpa_flash.judge(*errors(case, dtype, lambda result: result)) is None


MUTATIONS = {
    "scaled by one part in a hundred": lambda result: result * 1.01,
    "one row stale": lambda result: torch.cat([result[:, :, :1], result[:, :, :1], result[:, :, 2:]], 2),
    "heads exchanged": lambda result: result.roll(1, 1),
    "one NaN": lambda result: result.index_fill(3, torch.tensor([0]), float("nan")),
    "nothing written": torch.zeros_like,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_attention_is_caught_in_every_precision(mutation: str, dtype: str) -> None:
    case = next(case for case in CASES if case.name == "causal")
    assert sdpa_flash.judge(*errors(case, dtype, MUTATIONS[mutation]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plain_formula_means_the_same_as_the_reference(case: Case) -> None:
    """In float64 both agree, so the masks and heads of a case mean one thing in all three computations."""
    query, key, value = (part.double() for part in case.inputs("float32"))
    exact = reference.attention(query, key, value, diagonal=case.diagonal)
    assert (plain(case, query, key, value) - exact).abs().max() <= 1e-10


def test_the_profiler_tells_flash_from_math() -> None:
    with torch.autograd.profiler.profile() as ran_flash:
        flash(CASES[0], *CASES[0].inputs("bfloat16"))
    with torch.autograd.profiler.profile() as ran_plain:
        plain(CASES[0], *CASES[0].inputs("bfloat16"))
    names = [[event.key for event in profile.key_averages()] for profile in (ran_flash, ran_plain)]
    assert sdpa_kernel.judge(names[0], "cpu").status == "ok"
    assert sdpa_kernel.judge(names[1], "cpu").status == "fail"
    assert sdpa_kernel.judge([], "cpu").status == "fail"

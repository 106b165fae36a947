"""The tolerances accept a correct kernel and reject one that is wrong by one part in a hundred."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.verify.in_torch.altered_kernels import Bent
from verify.attention.cases import CASES, Case, Inputs, plain
from verify.attention.check import ErrorComparison, check_kernel_trace, measure, tolerance_problem, trace_kernels
from verify.attention.providers import packed
from verify.checks.operators import vllm_functions
from verify.inputs import DTYPES, corrupt, normal
from verify.operators.reference import lost_in_sums, product, share


def error_of(left: Any, right: Any, result: Any) -> float:
    return share(result, product(left, right), lost_in_sums(left, right))


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 60), depth=st.integers(1, 300), columns=st.integers(40, 60), seed=st.integers(0, 99))
def test_a_correct_product_is_within_its_bound_and_one_wrong_by_a_hundredth_is_not(
    dtype: str, rows: int, depth: int, columns: int, seed: int
) -> None:
    left, right = normal(rows, depth, seed=seed, dtype=dtype), normal(depth, columns, seed=seed + 1, dtype=dtype)
    result = left @ right
    assert error_of(left, right, result) <= 1
    assert error_of(left, right, result * 1.01) > 1
    if dtype != "bfloat16":  # its own steps are up to a hundredth wide: a single element may round back
        assert error_of(left, right, corrupt(result)) > 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_product_that_is_not_a_number_is_infinitely_wrong(bad: float) -> None:
    left, right = normal(4, 5, seed=1, dtype="float32"), normal(5, 6, seed=2, dtype="float32")
    result = left @ right
    result[1, 2] = bad
    assert error_of(left, right, result) == float("inf")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_results_that_are_cut_instead_of_rounded_pass_only_where_the_operator_cuts(dtype: str) -> None:
    exact = normal(40, 50, seed=3, dtype="float32").double()
    kind = torch.finfo(getattr(torch, dtype))
    step = 2.0 ** exact.abs().log2().floor() * kind.eps
    cut = ((exact.abs() / step).floor() * step * exact.sign()).to(getattr(torch, dtype))
    assert share(cut, exact) > 1.5
    assert share(cut, exact, truncated=True) <= 1
    assert share(cut * (1 + 2 * kind.eps), exact, truncated=True) > 1
    assert share(exact.to(cut.dtype), exact) <= 1


CAUSAL = next(case for case in CASES if case.name == "causal")


def compared(dtype: str, change: Any) -> list[ErrorComparison]:
    """Compare flash attention whose result is changed, and its gradients, with the reference."""

    def spoiled(problem: Case, inputs: Inputs) -> Any:
        return change(packed.FLASH.compute(problem, inputs))

    return measure(spoiled, CAUSAL, dtype, "cpu", backward=True)


MUTATIONS = {
    "scaled by one part in a hundred": lambda result: result * 1.01,
    "one row stale": lambda result: torch.cat([result[:1], result[:1], result[2:]]),
    "heads exchanged": lambda result: result.roll(1, 1),
    "one NaN": lambda result: result.index_fill(2, torch.tensor([0]), float("nan")),
    "nothing written": lambda result: result * 0,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_attention_is_caught_in_every_precision(mutation: str, dtype: str) -> None:
    assert tolerance_problem(compared(dtype, MUTATIONS[mutation])[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_wrong_by_a_hundredth_is_noticed_with_a_correct_result(dtype: str) -> None:
    result, *gradients = compared(dtype, Bent.apply)
    assert tolerance_problem(result) is None
    assert [tolerance_problem(one) is not None for one in gradients] == [True, True, True]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_plain_formula_has_the_same_meaning_as_the_reference(case: Case) -> None:
    """In float64 both agree, so the masks and heads of a case have the same meaning in all three computations."""
    inputs = Inputs(*(part.double() for part in case.inputs("float32")))
    assert (plain(case, inputs) - case.exact(inputs)).abs().max() <= 1e-10


def test_eight_bit_results_are_compared_with_a_formula_with_eight_bit_weights() -> None:
    inputs = CAUSAL.inputs("float8_e4m3fn")
    exact, coarse = CAUSAL.exact(inputs), plain(CAUSAL, inputs)
    assert coarse.dtype == torch.bfloat16
    assert 0.01 < (coarse.double() - exact).abs().max() < 0.5


def test_the_profiler_distinguishes_flash_from_the_formula() -> None:
    row, maps = packed.FLASH.row, ""
    seen = {
        call: trace_kernels(call, CASES[0], "bfloat16", "cpu") or set()
        for call in (packed.FLASH.compute, packed.MATH.compute, plain)
    }
    assert check_kernel_trace(row, "cpu", seen[packed.FLASH.compute], maps).status == "ok"
    other = check_kernel_trace(row, "cpu", seen[packed.MATH.compute], maps)
    assert (other.status, "aten::_scaled_dot_product_attention_math" in other.reason) == ("fail", True)
    assert check_kernel_trace(row, "cpu", seen[plain], maps).status == "fail"
    assert check_kernel_trace(row, "cpu", [], maps).status == "fail"


def test_query_heads_are_a_multiple_of_key_heads_as_vllms_kernel_for_cards_requires() -> None:
    assert vllm_functions.HEADS % vllm_functions.KEY_HEADS == 0

"""A mutation run: the kernels themselves are changed by one part in a hundred, and each check must notice.

The checks do not change their own observations (as with `--inject`): torch's operators compute wrong results while they run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.verify.in_torch.altered_kernels import Broken, Change, off
from verify.inputs import DTYPES
from verify.records import Check, CheckContext, CheckResult, Level
from verify.runner.registry import all_checks
from verify.tables import table

CHECKS = {check.id: check for check in all_checks()}
KERNELS = [
    ("kernels.vector_add", "aten::add"),
    ("kernels.gemm", "aten::mm"),
    ("kernels.gemm_8bit", "aten::_int_mm"),
    ("kernels.gemm_8bit", "aten::_scaled_mm"),
    ("attention.sdpa_flash", "aten::_scaled_dot_product_flash_attention_for_cpu"),
]
"""The operator of each check; float64, in which references are computed, stays correct."""


def asked(check: Check) -> CheckResult:
    return check.run(CheckContext(level="quick", device="cpu"))


@pytest.mark.parametrize(("check", "operator"), KERNELS)
def test_a_kernel_that_is_wrong_by_a_hundredth_is_noticed(check: str, operator: str) -> None:
    assert asked(CHECKS[check]).status == "ok"
    with Broken(operator) as broken:
        outcome = asked(CHECKS[check])
    assert broken.hits
    assert outcome.status == "fail", outcome.reason
    assert asked(CHECKS[check]).status == "ok"


def side_above(limit: int, place: int) -> Change:
    """Change products by one part in a hundred where rows, depth or columns (by their position) exceed a limit."""

    def change(result: torch.Tensor, args: Any) -> torch.Tensor:
        left, right = [part for part in args if isinstance(part, torch.Tensor)][-2:]
        sides = (left.shape[-2], left.shape[-1], right.shape[-1])
        return off(result) if sides[place] > limit else result

    return change


def whole_above(limit: int) -> Change:
    """Change products whose three sides all exceed a limit."""
    return lambda result, args: off(result) if min(*args[0].shape, args[1].shape[1]) > limit else result


def one_row(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Change one row in the middle of large products, as by one faulty core."""
    wrong = result.clone()
    if len(result) > 1000:
        wrong[777] = off(wrong[777])
    return wrong


def last_batch(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Change the last product of a batch by one part in a hundred."""
    return torch.cat([result[:-1], off(result[-1:])])


def saturated(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Limit sums to 16 bits."""
    return result.clamp(-(1 << 15), (1 << 15) - 1)


def pairwise_saturated(result: torch.Tensor, args: Any) -> torch.Tensor:
    """Limit sums of two neighbours to 16 bits, as a CPU that multiplies unsigned by signed bytes."""
    left, right = args[0].long() + 128, args[1].long()
    if left.shape[1] % 2:
        return result
    pairs = (left[:, :, None] * right).unflatten(1, (-1, 2)).sum(dim=2).clamp(-(1 << 15), (1 << 15) - 1)
    return (pairs.sum(dim=1) - 128 * right.sum(dim=0)).to(result.dtype)


def tail_lost(lanes: int) -> Change:
    """Do not add the remainder of the depth after whole vectors."""

    def change(result: torch.Tensor, args: Any) -> torch.Tensor:
        whole = args[0].shape[1] // lanes * lanes
        return (args[0][:, :whole].long()[:, :, None] * args[1][:whole].long()).sum(dim=1).to(result.dtype)

    return change


PRODUCTS = [
    *[("gemm", f"aten::{name}", side_above(1024, place), DTYPES) for name in ("mm", "addmm") for place in range(3)],
    ("gemm", "aten::mm", whole_above(1024), ("float32",)),
    ("gemm", "aten::mm", one_row, DTYPES),
    ("gemm_batched", "aten::bmm", off, DTYPES),
    ("gemm_batched", "aten::bmm", last_batch, DTYPES),
    ("gemm_batched", "aten::baddbmm", last_batch, DTYPES),
    ("gemm_batched", "aten::bmm", side_above(1024, 1), DTYPES),
    ("gemm_8bit", "aten::_int_mm", saturated, ()),
    ("gemm_8bit", "aten::_int_mm", pairwise_saturated, ()),
    *[("gemm_8bit", "aten::_int_mm", tail_lost(lanes), ()) for lanes in (4, 16, 64)],
]
"""Checks of products, the operator, its fault, and the types in which it is noticed. float64 is wrong as well."""


@pytest.mark.parametrize(("name", "operator", "change", "kinds"), PRODUCTS)
def test_a_product_that_is_wrong_in_some_place_is_noticed(
    name: str, operator: str, change: Change, kinds: tuple[str, ...]
) -> None:
    check = CHECKS[f"kernels.{name}"]
    with Broken(operator, change, spared=()) as broken:
        outcome = check.run(CheckContext(device="cpu"))
    assert broken.hits
    assert outcome.status == "fail", outcome.reason
    assert all(kind in outcome.reason for kind in kinds)
    sound = check.run(CheckContext(device="cpu"))
    assert sound.status == "ok", sound.reason


WRONG_ATTENTION: dict[str, Change] = {
    "beyond 1,024 keys": lambda result, args: off(result) if args[1].shape[2] > 1024 else result,
    "of batches above 4": lambda result, args: off(result) if args[0].shape[0] > 4 else result,
    "of the last of a batch above 4": lambda result, args: last_batch(result, args) if len(result) > 4 else result,
}


@pytest.mark.parametrize("change", WRONG_ATTENTION.values(), ids=WRONG_ATTENTION)
def test_attention_that_is_wrong_at_larger_sizes_only_is_noticed(change: Change) -> None:
    with Broken("aten::_scaled_dot_product_flash_attention_for_cpu", change) as broken:
        outcome = CHECKS["attention.sdpa_flash"].run(CheckContext(device="cpu"))
    assert broken.hits
    assert outcome.status == "fail", outcome.reason


@pytest.mark.parametrize(
    ("level", "compared"), [("standard", {"float32"}), ("full", {"float32", "bfloat16", "float16"})]
)
def test_precisions_that_take_long_to_compile_are_compared_at_full_alone(
    level: Level, compared: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table("attention")["provider"]["sdpa_flash"], "standard_dtypes", ["float32"])
    outcome = CHECKS["attention.sdpa_flash"].run(CheckContext(device="cpu", level=level))
    assert outcome.status == "ok", outcome.reason
    assert {figure.name.removeprefix("largest error, ").partition(",")[0] for figure in outcome.figures} == compared
    assert {"bfloat16", "float16"} - set(outcome.evidence["does not support"]) == compared - {"float32"}


def test_products_of_integers_are_checked_separately_from_float_products() -> None:
    with Broken("aten::mm", spared=()) as floats, Broken("aten::bmm", spared=()):
        outcome = CHECKS["kernels.gemm_8bit"].run(CheckContext(device="cpu"))
        assert CHECKS["kernels.gemm"].run(CheckContext(device="cpu")).status == "fail"
    assert floats.hits
    assert outcome.status == "ok", outcome.reason


def test_an_occasionally_wrong_kernel_is_outvoted() -> None:
    with Broken("aten::mm", every=3) as broken:  # two products per vote: the first one of the second vote
        outcome = asked(CHECKS["kernels.determinism"])
    assert broken.hits
    assert outcome.status in ("warn", "fail")


def test_every_check_of_results_is_broken_here_or_by_injection() -> None:
    timed = {"collectives.pairs"}
    numeric = {
        check.id
        for check in all_checks()
        if check.family in ("kernels", "attention", "operators", "collectives") or check.id == "serving.answer"
    } - timed
    assert {check.id for check in all_checks() if "wrong-result" in check.faults} == numeric
    assert {check for check, _ in KERNELS} < numeric

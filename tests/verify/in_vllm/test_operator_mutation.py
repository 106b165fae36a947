"""vLLM's own operators are broken one by one: each check must notice, and must pass afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch

from verify.binaries.distributions import truncated_types
from verify.checks.operators import vllm_functions, vllm_products
from verify.checks.operators import vllm_products as vllm_quantised
from verify.host.cpu import largest_int8_weight
from verify.operators.check import load
from verify.records import CheckContext, CheckResult
from verify.runner.registry import all_checks

CHECKS = {check.id.partition(".")[2]: check for check in all_checks() if check.id.startswith("operators.vllm_")}
RESULTS: dict[str, tuple[str, int]] = {
    "rms_norm": ("vllm_norm", 0),
    "fused_add_rms_norm": ("vllm_norm", 0),
    "rotary_embedding": ("vllm_rotary", 1),
    "silu_and_mul": ("vllm_activation", 0),
    "gelu_and_mul": ("vllm_activation", 0),
    "gelu_tanh_and_mul": ("vllm_activation", 0),
    "gelu_new": ("vllm_activation", 0),
    "gelu_fast": ("vllm_activation", 0),
    "gelu_quick": ("vllm_activation", 0),
    "gelu_tanh": ("vllm_activation", 0),
    "onednn_mm": ("vllm_products", 0),
    "onednn_scaled_mm": ("vllm_quantised", 0),
    "static_scaled_int8_quant": ("vllm_quantised", 0),
    "dynamic_scaled_int8_quant": ("vllm_quantised", 0),
    "cpu_attn_reshape_and_cache": ("vllm_cache", 2),
    "concat_and_cache_mla_cpu": ("vllm_cache", 2),
}
"""The operators that vLLM has on CPUs: the check of each, and the position of the argument that it writes to."""
if truncated_types():  # the extensions for processors without AVX512_BF16 lack this one
    del RESULTS["concat_and_cache_mla_cpu"]

Change = Callable[[list[Any], Any], Any]
"""Takes the arguments after the call and its result; changes the arguments or returns another result."""


class Broken:
    """Within the block, the output of an operator of vLLM is changed; `before` changes its arguments."""

    def __init__(self, operator: str, change: Change, *, before: Callable[[list[Any]], None] | None = None) -> None:
        self.operator, self.change, self.before, self.hits = operator, change, before, 0

    def __enter__(self) -> Self:
        assert load() is None
        self.sound = getattr(torch.ops._C, self.operator)
        wrong = _Overload(self._call, self.sound.default._schema)
        setattr(torch.ops._C, self.operator, SimpleNamespace(default=wrong))
        return self

    def __exit__(self, *_: object) -> None:
        setattr(torch.ops._C, self.operator, self.sound)

    def _call(self, *args: Any) -> Any:
        given = list(args)
        if self.before:
            self.before(given)
        result = self.sound.default(*given)
        self.hits += 1
        return self.change(given, result)


class _Overload:
    def __init__(self, call: Callable[..., Any], schema: Any) -> None:
        self._call, self._schema = call, schema

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def asked(name: str) -> CheckResult:
    return CHECKS[name].run(CheckContext(device="cpu"))


def scaled(place: int, factor: float) -> Change:
    """Multiply each written element by a factor; change each integer at least by one."""

    def change(given: list[Any], result: Any) -> Any:
        wrong = given[place].double() * factor
        given[place].copy_(
            wrong if given[place].dtype.is_floating_point else wrong.sign() * wrong.abs().ceil().clamp(max=127)
        )
        return result

    return change


def noticed(name: str, broken: Broken) -> CheckResult:
    """Return the result of a check that is `ok` without the change."""
    with broken:
        outcome = asked(name)
    assert broken.hits
    assert outcome.status == "fail", outcome.reason
    assert asked(name).status == "ok"
    return outcome


@pytest.mark.parametrize(
    ("operator", "factor"),
    [
        *((operator, 1.01) for operator in RESULTS),
        # bfloat16, in which only this one is computed, rounds a thousandth away.
        *((operator, 1.001) for operator in RESULTS if operator != "concat_and_cache_mla_cpu"),
    ],
)
def test_a_wrong_operator_is_noticed_and_named(operator: str, factor: float) -> None:
    name, place = RESULTS[operator]
    outcome = noticed(name, Broken(operator, scaled(place, factor)))
    assert operator in outcome.reason


def test_every_operator_of_this_release_is_broken_here() -> None:
    known = {figure.name.removeprefix("error, ") for name in CHECKS for figure in asked(name).figures}
    assert known == {*RESULTS, "fused_gumbel_argmax", "greedy_argmax"}


def test_a_norm_without_its_epsilon_is_noticed() -> None:
    def before(given: list[Any]) -> None:
        given[3] = vllm_functions.EPSILON / 10

    for operator in ("rms_norm", "fused_add_rms_norm"):
        noticed("vllm_norm", Broken(operator, lambda _, result: result, before=before))


def test_a_wrong_residual_of_a_fused_addition_is_noticed() -> None:
    noticed("vllm_norm", Broken("fused_add_rms_norm", scaled(1, 1.01)))


@pytest.mark.parametrize("first", [200, 4097])
def test_angles_that_are_wrong_after_a_position_are_noticed(first: int) -> None:
    def before(given: list[Any]) -> None:
        given[0] = torch.where(given[0] >= first, given[0] - 1, given[0])

    assert first <= max(vllm_functions.POSITIONS)
    noticed("vllm_rotary", Broken("rotary_embedding", lambda _, result: result, before=before))


@pytest.mark.parametrize("part", [1, 2], ids=["queries", "keys"])
def test_a_wrong_rotation_of_only_one_part_is_noticed(part: int) -> None:
    noticed("vllm_rotary", Broken("rotary_embedding", scaled(part, 1.01)))


@pytest.mark.parametrize("place", [0, -1, 399])
def test_a_token_at_the_place_of_its_neighbour_is_noticed(place: int) -> None:
    def before(given: list[Any]) -> None:
        slots = given[4].clone()
        slots[place] = 7  # where the check leaves a gap, or the place of another token
        given[4] = slots

    noticed("vllm_cache", Broken("cpu_attn_reshape_and_cache", lambda _, result: result, before=before))


def test_a_place_without_a_write_is_noticed() -> None:
    def change(given: list[Any], result: Any) -> Any:
        given[3].view(-1)[(given[3].view(-1) == 60.0).nonzero()[-1]] = 61.0
        return result

    noticed("vllm_cache", Broken("cpu_attn_reshape_and_cache", change))


def test_products_that_lose_the_tail_of_the_depth_are_noticed() -> None:
    def before(given: list[Any]) -> None:
        given[1] = given[1].clone()
        given[1][:, -8:] = 0

    for name, operator in (("vllm_quantised", "onednn_scaled_mm"), ("vllm_products", "onednn_mm")):
        noticed(name, Broken(operator, lambda _, result: result, before=before))


def test_wrong_products_of_many_rows_are_noticed() -> None:
    def change(given: list[Any], result: Any) -> Any:
        if given[0].shape[0] > 1024:
            given[0][-1, -1] *= 1.01
        return result

    for name, operator in (("vllm_quantised", "onednn_scaled_mm"), ("vllm_products", "onednn_mm")):
        noticed(name, Broken(operator, change))


@pytest.mark.parametrize("largest", [None, 64])
def test_8_bit_weights_that_a_cpu_multiplies_wrongly_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, largest: int | None
) -> None:
    monkeypatch.setattr(vllm_quantised, "largest_int8_weight", lambda: largest)
    weights: list[Any] = []

    def note(given: list[Any]) -> None:
        weights.append(given[0])

    with Broken("create_onednn_scaled_mm_handler", lambda _, result: result, before=note):
        outcome = asked("vllm_quantised")
    assert {int(one.int().abs().max()) for one in weights} == {largest or 128}
    assert ("int8 weights beyond 64, which this CPU multiplies wrongly, were left out" in outcome.reason) == (
        largest is not None
    )
    if largest is not None or largest_int8_weight() is None:
        assert outcome.status == "ok", outcome.reason


def test_a_precision_that_onednn_lacks_is_named_and_the_others_are_checked() -> None:
    def refuse(given: list[Any]) -> None:
        if given[0].dtype == torch.bfloat16:
            raise RuntimeError(f"{vllm_products.NOT_THERE} for the matmul primitive.")

    with Broken("create_onednn_mm_handler", lambda _, result: result, before=refuse):
        outcome = asked("vllm_products")
    assert outcome.status == "ok", outcome.reason
    assert [figure.name for figure in outcome.figures] == ["error, onednn_mm"]
    assert "bfloat16" in outcome.evidence["missing"]["onednn_mm, bfloat16"]


def test_another_error_of_onednn_is_no_missing_precision() -> None:
    def fail(_: list[Any]) -> None:
        raise RuntimeError("out of memory")

    with Broken("create_onednn_mm_handler", lambda _, result: result, before=fail), pytest.raises(RuntimeError):
        asked("vllm_products")


def test_numbers_beyond_the_range_that_wrap_around_are_noticed() -> None:
    def change(given: list[Any], result: Any) -> Any:
        given[0].copy_((given[1] / given[2]).round().to(torch.int64).to(torch.int8))
        return result

    noticed("vllm_quantised", Broken("static_scaled_int8_quant", change))


def test_a_draw_that_takes_impossible_or_other_tokens_is_noticed() -> None:
    def impossible(_: list[Any], result: Any) -> Any:
        return torch.where(torch.arange(len(result)) == 17, 0, result)

    def flatter(given: list[Any]) -> None:
        given[0] = given[0] * 0.9

    noticed("vllm_sampler", Broken("fused_gumbel_argmax", impossible))
    noticed("vllm_sampler", Broken("fused_gumbel_argmax", lambda _, result: result, before=flatter))


def test_the_second_largest_in_one_row_is_noticed() -> None:
    def change(given: list[Any], result: Any) -> Any:
        wrong = result.clone()
        wrong[-1] = given[0][-1].topk(2).indices[1]
        return wrong

    noticed("vllm_sampler", Broken("greedy_argmax", change))


def test_the_operators_are_called_without_importing_vllm() -> None:
    code = "import sys; from verify.operators.check import operator; operator('rms_norm', 'cpu'); assert 'vllm' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Each operator is broken in every precision, float64 included: its check must notice. Sound ones: test_whole_run.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.verify.in_torch.altered_kernels import Broken, Change
from verify.inputs import DTYPES
from verify.records import CheckContext, CheckResult
from verify.runner.registry import all_checks

CHECKS = {check.id: check for check in all_checks()}
FINE = ("float32", "float16")
"""The types whose steps are finer than one part in a thousand: bfloat16 rounds such an error away."""


def asked(name: str) -> CheckResult:
    return CHECKS[f"operators.{name}"].run(CheckContext(device="cpu"))


def wrong_types(outcome: CheckResult) -> set[str]:
    return {figure.name.removeprefix("error, ") for figure in outcome.figures if not (figure.value or 0) <= 1}


def scaled(factor: float) -> Change:
    """Multiply every element by a factor."""
    return lambda result, _: (result.double() * factor).to(result.dtype)


def last_row(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Change the last row by one part in a hundred."""
    wrong = result.clone()
    wrong[-1] *= 1.01
    return wrong


def last_column(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Change the last element of each row by one part in a hundred."""
    wrong = result.clone()
    wrong[..., -1] *= 1.01
    return wrong


def beyond(limit: float) -> Change:
    """Change results of arguments beyond a limit by one part in a hundred."""
    return lambda result, args: torch.where(args[0] > limit, result * 1.01, result)


def last_of_equals(result: torch.Tensor, args: Any) -> torch.Tensor:
    """Return the last of several equal largest elements."""
    width = args[0].shape[-1]
    row = torch.arange(width) * (args[0] == args[0].amax(dim=-1, keepdim=True))
    return row.amax(dim=-1).to(result.dtype)


def shifted(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Replace the last row by another one."""
    return torch.cat([result[:-1], result[:1] + 1])


def unmasked(_: torch.Tensor, args: Any) -> torch.Tensor:
    """Mask nothing, so that top-k and top-p exclude no token."""
    given: torch.Tensor = args[0]
    return given


def one_for_all(result: torch.Tensor, _: Any) -> torch.Tensor:
    """Return the first token in two of a hundred draws, whatever its probability."""
    flat = result.clone().flatten()
    flat[::50] = 0
    return flat.reshape(result.shape)


BROKEN = [
    *[("exp", operator, scaled(factor), kinds) for operator in ("aten::exp", "aten::exp_") for factor, kinds in ((1.01, DTYPES), (1.001, FINE))],
    *[("softmax", "aten::_softmax", change, kinds) for change, kinds in ((scaled(1.01), DTYPES), (scaled(1.001), FINE), (last_row, DTYPES), (last_column, DTYPES))],
    ("softmax", "aten::_log_softmax", scaled(1.001), DTYPES),
    *[("norm", "aten::native_layer_norm", change, kinds) for change, kinds in ((scaled(1.01), DTYPES), (scaled(1.001), FINE), (last_row, DTYPES), (last_column, DTYPES))],
    ("norm", "aten::rsqrt", scaled(1.001), FINE),
    ("norm", "aten::mean", last_row, DTYPES),
    *[("rotary", operator, beyond(200), ("float32",)) for operator in ("aten::cos", "aten::sin")],
    ("rotary", "aten::pow", scaled(1.001), ("float32",)),
    ("rotary", "aten::polar", scaled(1.001), ("float32",)),
    ("rotary", "aten::cat", scaled(1.01), DTYPES),
    ("rotary", "aten::cat", scaled(1.001), ("float32",)),
    *[("activation", operator, scaled(factor), kinds) for operator in ("aten::silu", "aten::silu_", "aten::gelu", "aten::sigmoid") for factor, kinds in ((1.01, DTYPES), (1.001, FINE))],
    ("activation", "aten::mul", last_column, DTYPES),
    ("lookup", "aten::argmax", last_of_equals, DTYPES),
    *[("lookup", operator, shifted, DTYPES) for operator in ("aten::max", "aten::topk", "aten::embedding", "aten::index", "aten::index_select", "aten::gather")],
    ("sampling", "aten::masked_fill", unmasked, ("float32",)),
    ("sampling", "aten::cumsum", scaled(1.01), ("float32",)),
    ("sampling", "aten::sort", lambda result, _: result.flip(1), ("float32",)),
    ("sampling", "aten::multinomial", one_for_all, ("float32",)),
    ("sampling", "aten::exponential_", lambda result, _: result.clamp(max=1), ("float32",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "operator", "change", "kinds"), BROKEN)
def test_a_broken_operator_is_noticed_in_every_type(
    name: str, operator: str, change: Change, kinds: tuple[str, ...]
) -> None:
    with Broken(operator, change, spared=()) as broken:
        outcome = asked(name)
    assert broken.hits
    assert outcome.status == "fail", outcome.reason
    assert wrong_types(outcome) >= set(kinds)


@pytest.mark.parametrize("factor", [10.0, 1.1])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_another_epsilon_of_a_norm_is_noticed(norm: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., torch.Tensor] = getattr(functional, norm)

    def bent(*arguments: Any) -> torch.Tensor:
        return right(*arguments[:-1], arguments[-1] * factor)

    monkeypatch.setattr(functional, norm, bent)
    outcome = asked("norm")
    assert outcome.status == "fail"
    assert wrong_types(outcome) == set(DTYPES)


SPELLED = [
    ("exp", torch, "exp"),
    ("softmax", functional, "softmax"),
    ("softmax", torch, "softmax"),
    ("norm", functional, "rms_norm"),
    ("activation", functional, "silu"),
    ("activation", functional, "gelu"),
    ("lookup", functional, "embedding"),
]
"""Functions that a changed Python file replaces, while the operators that they call stay correct."""


@pytest.mark.parametrize(("name", "module", "function"), SPELLED, ids=lambda value: getattr(value, "__name__", value))
def test_a_replaced_python_function_is_noticed(
    name: str, module: Any, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(module, function)

    def bent(scale: float, *arguments: Any, **options: Any) -> Any:
        return right(*arguments, **options) * scale

    monkeypatch.setattr(module, function, partial(bent, 1.01))
    outcome = asked(name)
    assert outcome.status == "fail"
    assert wrong_types(outcome) == set(DTYPES)

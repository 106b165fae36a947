"""Upgrade of the attention of a user's model, compared with the original.

Both are compared with the original in float64. Errors of outputs may be twice, errors of parameter gradients three times
those of the original in its own precision. The attention checks use the same rule.
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verify.attention import FlashMultiheadAttention, upgrade_attention
from verify.attention_check import ErrorComparison, ErrorSize, tolerance_problem
from verify.inputs import synchronize
from verify.records import CheckResult, Figure

REPEATS = 10
"""Timed runs of each model, alternating; the median counts."""


@dataclass(frozen=True)
class UpgradeSubject:
    """A model and its inputs. `arguments` may hold anything that the model accepts."""

    model: nn.Module
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def to(self, *where: Any) -> UpgradeSubject:
        """Copy to another precision or device; integer tensors keep their type."""
        moved = [_moved(value, where) for value in (*self.arguments, *self.keywords.values())]
        count = len(self.arguments)
        keywords = dict(zip(self.keywords, moved[count:], strict=True))
        model = copy.deepcopy(self.model)
        return UpgradeSubject(model.to(*where) if where else model, tuple(moved[:count]), keywords)

    def call(self) -> Tensor:
        """Return the model's output; for a tuple, list or mapping its first tensor."""
        return _first(self.model(*self.arguments, **self.keywords))


class UnusableError(Exception):
    """The factory returned nothing that can be upgraded; the message says what is missing."""


def load(name: str) -> UpgradeSubject:
    """Call `MODULE:FACTORY`, which returns a model and its inputs: a tuple of arguments or a mapping of keywords.

    The module may also be in the working directory.

    Raises:
        UnusableError: The result is not a model and its inputs.
    """
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise UnusableError(f"`{name}` is not MODULE:FACTORY")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise UnusableError(f"`{name}` cannot be imported: {error}") from error
    answer = factory()
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], nn.Module)):
        raise UnusableError(f"`{name}` returned {type(answer).__name__}, not a model and its inputs")
    model, inputs = answer
    if isinstance(inputs, Mapping):
        return UpgradeSubject(model, (), dict(inputs))
    if isinstance(inputs, Sequence):
        return UpgradeSubject(model, tuple(inputs), {})
    raise UnusableError(f"`{name}` returned inputs of type {type(inputs).__name__}: give a tuple or a mapping")


def upgraded(subject: UpgradeSubject, *, discard_weights: bool = False) -> tuple[UpgradeSubject, list[str]]:
    """Return a copy with upgraded attention, and the names of the upgraded modules.

    Raises:
        UnusableError: There is nothing to upgrade.
    """
    other = subject.to()
    names = upgrade_attention(other.model, discard_weights=discard_weights)
    if not names:
        raise UnusableError("the model holds no torch.nn.MultiheadAttention")
    return other, names


def compare(own: UpgradeSubject, flash: UpgradeSubject) -> list[ErrorComparison]:
    """Compare output and gradients of both with the original in float64, relative to the largest value there."""
    precise = own.to(torch.float64)
    for subject in (own, flash, precise):
        subject.model.eval()  # dropout would differ in each
    answers = [_with_gradients(subject) for subject in (precise, own, flash)]
    dtype = str(next(own.model.parameters()).dtype).removeprefix("torch.")
    return [
        ErrorComparison(name, dtype, _share(mine, exact), _share(theirs, exact), gradient=name != "output")
        for name, exact, theirs, mine in zip(answers[0], *(answer.values() for answer in answers), strict=True)
    ]


def kernels_used(flash: UpgradeSubject) -> dict[str, str | None]:
    """Return by module what computed its last call."""
    return {
        name: module.used for name, module in flash.model.named_modules() if isinstance(module, FlashMultiheadAttention)
    }


def same_state(own: UpgradeSubject, flash: UpgradeSubject) -> bool:
    """Return whether both have the same parameters and buffers, bit for bit."""
    one, other = own.model.state_dict(), flash.model.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def evaluate(measured: Sequence[ErrorComparison], used: Mapping[str, str | None], *, same: bool) -> CheckResult:
    """Decide whether the upgrade may replace the original."""
    wrong = [text for one in measured if (text := tolerance_problem(one))]
    evidence = {"kernels": dict(used), "compared": [one.what for one in measured]}
    output = next(one for one in measured if not one.gradient)
    figures = tuple(
        Figure(f"error of the {name}", value, "share of the largest value")
        for name, value in (("output", output.ours.largest), ("original's output", output.theirs.largest))
    )
    if not same:
        return CheckResult("fail", "the parameters differ from the original's", figures, evidence)
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return CheckResult("fail", f"it differs from the original: {'; '.join(wrong[:3])}{more}", figures, evidence)
    idle = sorted(name or "the model" for name, kernel in used.items() if kernel is None)
    if idle:
        return CheckResult("warn", f"never called, so not compared: {', '.join(idle)}", figures, evidence)
    if set(used.values()) == {"torch"}:
        text = "the model asks every attention for its weights, which flash kernels cannot return: nothing is faster"
        remedy = "if it does not use them, upgrade with --discard-weights"
        return CheckResult("warn", text, figures, evidence, remedy)
    gradients = len(measured) - 1
    text = f"the output and {gradients} gradients are as close to float64 as the original's"
    return CheckResult("ok", text, figures, evidence)


def timed(own: UpgradeSubject, flash: UpgradeSubject, device: str) -> tuple[Figure, ...]:
    """Return median milliseconds of both, forward and with the backward pass, alternating; on GPUs also the peak memory."""
    figures = []
    for what, call in (("forward", _forward), ("forward and backward", _both_ways)):
        times: dict[str, list[float]] = {"original": [], "upgraded": []}
        for turn in range(REPEATS + 1):
            for name, subject in (("original", own), ("upgraded", flash)):
                seconds = _seconds(partial(call, subject), device)
                if turn:  # the first run warms up
                    times[name].append(seconds)
        figures += [
            Figure(f"{what}, {name}", sorted(values)[len(values) // 2] * 1000, "ms") for name, values in times.items()
        ]
    if device != "cpu":
        for name, subject in (("original", own), ("upgraded", flash)):
            torch.cuda.reset_peak_memory_stats(device)
            _both_ways(subject)
            figures.append(Figure(f"peak memory, {name}", torch.cuda.max_memory_allocated(device), "B"))
    return tuple(figures)


def _seconds(work: Callable[[], None], device: str) -> float:
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def _forward(subject: UpgradeSubject) -> None:
    with torch.inference_mode():
        subject.call()


def _both_ways(subject: UpgradeSubject) -> None:
    subject.model.zero_grad()
    subject.call().float().sum().backward()


def _with_gradients(subject: UpgradeSubject) -> dict[str, Tensor]:
    subject.model.zero_grad()
    output = subject.call()
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    output.backward(weights)
    found = {"output": output.detach()}
    for name, parameter in subject.model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad
    return found


def _share(result: Tensor, exact: Tensor) -> ErrorSize:
    greatest = float(exact.abs().max()) or 1.0
    error = (result.double() - exact).abs() / greatest
    return ErrorSize(float(error.max()), float(error.mean()))


def _moved(value: Any, where: tuple[Any, ...]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        where = tuple(part for part in where if not isinstance(part, torch.dtype))
    return value.detach().clone().to(*where) if where else value.detach().clone()


def _first(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for value in values:
        if isinstance(value, Tensor):
            return value
    raise UnusableError(f"the model returned {type(output).__name__}, in which no tensor stands first")

"""Upgrade of the attention of a user's model, compared with the original.

Both are compared with the original in float64: the model's output, the gradients of its parameters where they are required, and
each upgraded layer with the inputs that the original gives it. Errors of outputs may be twice, errors of gradients three times
those of the original in its own precision. The attention checks use the same rule.
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verify.attention.check import ErrorComparison, ErrorSize, tolerance_problem
from verify.attention.layers import FlashMultiheadAttention, torch_layers, upgrade_attention
from verify.attention.speed import peak
from verify.inputs import synchronize
from verify.models.layers import layers_with_unread_weights
from verify.models.source import UnusableError, module_of, upgraded_source
from verify.records import CheckResult, Figure, first_few

REPEATS = 10
"""Timed runs of each model, alternating; the median counts."""
NO_GRADIENT = 1e-6
"""Share of the model's largest gradient up to which a parameter has none but rounding, as the bias of keys, which no softmax sees.

Its errors are then relative to that largest gradient.
"""


@dataclass(frozen=True)
class UpgradeSubject:
    """A model and its inputs. `arguments` may hold anything that the model accepts."""

    model: nn.Module
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    source: Path | None = None
    """The file whose factory built the model."""

    def to(self, *where: Any) -> UpgradeSubject:
        """Copy to another precision or device; integer tensors keep their type."""
        model = copy.deepcopy(self.model)
        return replace(
            self,
            model=model.to(*where) if where else model,
            arguments=tuple(_moved(value, where) for value in self.arguments),
            keywords={name: _moved(value, where) for name, value in self.keywords.items()},
        )

    def on(self, device: str, dtype: str | None) -> UpgradeSubject:
        """Copy to a device, and to the precision of that name unless None is given."""
        return self.to(device) if dtype is None else self.to(device, getattr(torch, dtype))

    def call(self) -> Tensor:
        """Return the model's output; for a tuple, list or mapping its first tensor."""
        output = self.model(*self.arguments, **self.keywords)
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
        for value in (output, *values):
            if isinstance(value, Tensor):
                return value
        raise UnusableError(f"the model returned {type(output).__name__}, in which no tensor stands first")


def default_device() -> str:
    """Return the first GPU, otherwise the CPU."""
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def load(name: str) -> UpgradeSubject:
    """Call a factory, which returns a model and its inputs: a tuple of arguments or a mapping of keywords.

    The name is `MODULE:FACTORY` or `FILE.py:FACTORY`; the module may also be in the working directory.
    Raises UnusableError where the result is anything else.
    """
    module_name, _, factory_name = name.rpartition(":")
    if not module_name or not factory_name:
        raise UnusableError(f"`{name}` is not MODULE:FACTORY or FILE.py:FACTORY")
    folder = Path.cwd()
    if module_name.endswith(".py"):
        folder, module_name = Path(module_name).resolve().parent, Path(module_name).stem
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
        factory = getattr(module, factory_name)
    except (ImportError, AttributeError) as error:
        raise UnusableError(f"`{name}` cannot be imported: {error}") from error
    answer, source = factory(), Path(module.__file__) if module.__file__ else None
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], nn.Module)):
        raise UnusableError(f"`{name}` returned {type(answer).__name__}, not a model and its inputs")
    model, inputs = answer
    if isinstance(inputs, Mapping):
        return UpgradeSubject(model, (), dict(inputs), source)
    if isinstance(inputs, Sequence):
        return UpgradeSubject(model, tuple(inputs), {}, source)
    raise UnusableError(f"`{name}` returned inputs of type {type(inputs).__name__}: give a tuple or a mapping")


def rebuilt(subject: UpgradeSubject, name: str) -> tuple[UpgradeSubject, list[str], str]:
    """Build the model from the upgraded source of its module, with the original's parameters and inputs.

    `name` is that by which it was loaded. Returns the new model, the names of its upgraded modules, and the source. Raises
    UnusableError where no edit of the file upgrades every attention of the model.
    """
    path = subject.source
    if path is None or path.suffix != ".py":
        raise UnusableError(f"`{name}` has no Python source that could be rewritten")
    discard_weights = set(torch_layers(subject.model)) == set(_unread(subject))
    text = upgraded_source(path.read_text(encoding="utf-8"), discard_weights=discard_weights)
    model = getattr(module_of(path, text), name.rpartition(":")[2])()[0]
    parameters = next(subject.model.parameters())
    model.to(parameters.device, parameters.dtype).load_state_dict(subject.model.state_dict())
    for one, other in zip(model.parameters(), subject.model.parameters(), strict=True):
        one.requires_grad_(other.requires_grad)
    names = [one for one, module in model.named_modules() if type(module) is FlashMultiheadAttention]
    if left := torch_layers(model):
        raise UnusableError(
            f"{path.name} does not build {', '.join(left)} itself, so no edit of it upgrades them: "
            "call upgrade_attention(model) where the model is built"
        )
    if not names:
        raise UnusableError("the model holds no torch.nn.MultiheadAttention")
    return replace(subject, model=model), names, text


def upgraded(subject: UpgradeSubject) -> tuple[UpgradeSubject, list[str]]:
    """Return a copy with upgraded attention, and the names of the upgraded modules.

    Attention weights that the model does not read are no longer computed. Raises UnusableError where there is nothing to upgrade.
    """
    other, unread = subject.to(), _unread(subject)
    names = upgrade_attention(other.model)
    for name in unread:
        other.model.get_submodule(name).discard_weights = True
    if not names:
        raise UnusableError("the model holds no torch.nn.MultiheadAttention")
    return other, names


def _unread(subject: UpgradeSubject) -> list[str]:
    """Return the layers whose attention weights the model does not read, found on a copy: it may keep state."""
    other = subject.to()
    return layers_with_unread_weights(other.model, lambda: other.model(*other.arguments, **other.keywords))


def compare(own: UpgradeSubject, flash: UpgradeSubject) -> list[ErrorComparison]:
    """Compare output and required gradients of both with the original in float64, relative to the largest value there."""
    precise = own.to(torch.float64)
    for subject in (own, flash, precise):
        subject.model.eval()  # dropout would differ in each
    exact, theirs, ours = (_with_gradients(subject) for subject in (precise, own, flash))
    gradients = [float(value.abs().max()) for name, value in exact.items() if name != "output"]
    steepest = max(gradients, default=0.0)
    dtype, found = _dtype(own.model), []
    for name, value in exact.items():
        greatest = float(value.abs().max())
        if name != "output" and greatest <= NO_GRADIENT * steepest:
            greatest = steepest
        mine, their_own = (_share(answer[name], value, greatest) for answer in (ours, theirs))
        found.append(ErrorComparison(name, dtype, mine, their_own, gradient=name != "output"))
    return found


def compare_layers(
    own: UpgradeSubject, flash: UpgradeSubject, names: Sequence[str], device: str
) -> list[tuple[ErrorComparison, dict[str, Any]]]:
    """Compare each upgraded layer that the model calls with its original, both with the inputs of the original's last call.

    Returns the errors of each, and its part of the document: medians and peak memory of forward calls, the result included.
    """
    found = []
    for name, inputs in _layer_inputs(own, names).items():
        original = UpgradeSubject(own.model.get_submodule(name), *inputs)
        changed = UpgradeSubject(flash.model.get_submodule(name), *inputs)
        with torch.inference_mode():
            exact, theirs, mine = (one.call() for one in (original.to(torch.float64), original, changed))
        error = ErrorComparison(f"layer {name}", _dtype(own.model), _share(mine, exact), _share(theirs, exact))
        times = _alternating(_forward, {"original": original, "upgraded": changed}, device)
        row: dict[str, Any] = {"name": name, "error": error.ours.largest, "original_error": error.theirs.largest}
        row |= {f"{which}_ms": milliseconds for which, milliseconds in times.items()}
        for which, subject in (("original", original), ("upgraded", changed)):
            row[f"{which}_peak_bytes"] = peak(partial(_forward, subject), device)
        found.append((error, row))
    return found


def _layer_inputs(own: UpgradeSubject, names: Sequence[str]) -> dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]]:
    inputs: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _module, arguments, keywords: inputs.update({name: (arguments, keywords)})

    hooks = [own.model.get_submodule(name).register_forward_pre_hook(keep(name), with_kwargs=True) for name in names]
    try:
        _forward(own)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


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
        return CheckResult("fail", f"it differs from the original: {first_few(wrong, 3)}", figures, evidence)
    idle = sorted(name or "the model" for name, kernel in used.items() if kernel is None)
    if idle:
        return CheckResult("warn", f"never called, so not compared: {', '.join(idle)}", figures, evidence)
    if set(used.values()) == {"torch"}:
        text = "the model reads the weights of every attention, which flash kernels cannot return: nothing is faster"
        remedy = "pass need_weights=False to the attention where the model can do without its weights"
        return CheckResult("warn", text, figures, evidence, remedy)
    of_layers = sum(one.what.startswith("layer ") for one in measured)
    counts = {"gradients": sum(one.gradient for one in measured), "layers": of_layers}
    more = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    text = f"the output{', ' * bool(more)}{more} are as close to float64 as the original's"
    return CheckResult("ok", text, figures, evidence)


def timed(own: UpgradeSubject, flash: UpgradeSubject, device: str) -> tuple[Figure, ...]:
    """Return median milliseconds and the peak memory of both: forward, and with the backward pass unless all is frozen."""
    subjects = {"original": own, "upgraded": flash}
    calls = {"forward": _forward}
    if any(parameter.requires_grad for parameter in own.model.parameters()):
        calls["forward and backward"] = _both_ways
    figures = []
    for what, call in calls.items():
        times = _alternating(call, subjects, device)
        figures += [Figure(f"{what}, {name}", milliseconds, "ms") for name, milliseconds in times.items()]
    for name, subject in subjects.items():
        figures.append(Figure(f"peak memory, {name}", peak(partial(call, subject), device), "B"))
    return tuple(figures)


def _alternating(
    call: Callable[[UpgradeSubject], object], subjects: Mapping[str, UpgradeSubject], device: str
) -> dict[str, float]:
    """Return the median milliseconds of a call with each subject."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(REPEATS + 1):
        for name, subject in subjects.items():
            started = time.perf_counter()
            call(subject)
            synchronize(device)
            if turn:  # the first run warms up
                times[name].append(time.perf_counter() - started)
    return {name: sorted(values)[len(values) // 2] * 1000 for name, values in times.items()}


def _forward(subject: UpgradeSubject) -> Tensor:
    with torch.inference_mode():
        return subject.call()


def _both_ways(subject: UpgradeSubject) -> None:
    subject.model.zero_grad()
    subject.call().float().sum().backward()


def _with_gradients(subject: UpgradeSubject) -> dict[str, Tensor]:
    subject.model.zero_grad()
    output = subject.call()
    found = {"output": output.detach()}
    if not output.requires_grad:  # a frozen model
        return found
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    output.backward(weights)
    for name, parameter in subject.model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient of {name}"] = parameter.grad
    return found


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")


def _share(result: Tensor, exact: Tensor, greatest: float | None = None) -> ErrorSize:
    error = (result.double() - exact).abs() / (greatest or float(exact.abs().max()) or 1.0)
    return ErrorSize(float(error.max()), float(error.mean()))


def _moved(value: Any, where: tuple[Any, ...]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        where = tuple(part for part in where if not isinstance(part, torch.dtype))
    return value.detach().clone().to(*where) if where else value.detach().clone()

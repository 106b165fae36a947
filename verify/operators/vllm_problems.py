"""Check of vLLM's operators: run problems and compare the results with expected ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from verify.binaries.vllm_kernels import truncated_types
from verify.inputs import DTYPES, synchronize
from verify.operators.check import Comparison
from verify.operators.vllm import MissingError, operator
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

Call = Callable[..., Any]


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


def operator_run(subjects: Sequence[OperatorSubject]) -> Callable[[CheckContext], CheckResult]:
    """Return the function of a check of these operators."""
    return partial(_run, subjects)


def _run(subjects: Sequence[OperatorSubject], context: CheckContext) -> CheckResult:
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

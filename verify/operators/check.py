"""Check of operators in every precision that engines use, compared with Python's arithmetic."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

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


def comparison_run(*compare: Compare, dtypes: tuple[str, ...] = DTYPES) -> Callable[[CheckContext], CheckResult]:
    """Return the function of a check that makes these comparisons in each precision."""
    return partial(_run, compare, dtypes)


def copies(device: str, elements: int) -> int:
    """Return how many copies of a block reach every core of a device; odd, so that copies end at odd positions."""
    reach = table("operators")["reach"]
    if device == "cpu":
        wanted = torch.get_num_threads() * reach["cpu_core"]
    else:
        wanted = torch.cuda.get_device_properties(device).multi_processor_count * reach["gpu_multiprocessor"]
    count: int = math.ceil(reach["times"] * wanted / elements)
    return count | 1


def _run(compare: tuple[Compare, ...], dtypes: tuple[str, ...], context: CheckContext) -> CheckResult:
    device, spoiled = context.device or "cpu", "wrong-result" in context.faults
    require_full_float32()
    figures, wrong, taken = [], [], []
    for dtype in dtypes:
        shares = {one.what: one.share(spoiled=spoiled) for each in compare for one in each(device, dtype)}
        taken += [what for what in shares if what not in taken]
        wrong += [f"{what}, {dtype}: {_excess(value)}" for what, value in shares.items() if not value <= 1]
        source = table("tolerances")["operators"]["source"]
        figures.append(Figure(f"error, {dtype}", max(shares.values()), "share of bound", ceiling=1, source=source))
    evidence = {"compared": taken, **synchronize(device)}
    if wrong:
        text = f"wrong results: {'; '.join(wrong)}"
        return CheckResult("fail", text, tuple(figures), evidence, "run it again; do not trust the device")
    worst = max(figure.value or 0 for figure in figures)
    text = f"{len(taken)} comparisons in {', '.join(dtypes)} are within the error bound (worst {worst:.2f} of it)"
    return CheckResult("ok", text, tuple(figures), evidence)


def _excess(value: float) -> str:
    return f"{value:.3g} times the error bound" if value < math.inf else "an element is wrong or not a number"

"""attention.sdpa_flash: torch's flash kernel computes attention right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from verify import reference
from verify.attention_cases import CASES, Case, flash, plain, without_kernel
from verify.inputs import DTYPES, finish, spoil
from verify.records import Check, Context, Figure, Outcome
from verify.tables import table

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Errors:
    """Largest and mean distance to the reference."""

    largest: float
    mean: float


def _run(context: Context) -> Outcome:
    device = context.device or "cpu"
    missing = without_kernel(device)
    if missing:
        return missing
    on_cpu = device == "cpu"
    cases = [case for case in CASES if context.reaches(case.level) and (on_cpu or not case.cpu_only)]
    dtypes = DTYPES if on_cpu else tuple(name for name in DTYPES if name != "float32")  # GPUs' flash kernels are 16 bit
    figures, wrong = [], []
    for dtype in dtypes:
        measured = [(case, *_measure(case, dtype, device, spoiled="wrong-result" in context.faults)) for case in cases]
        figures.append(_figure(dtype, [(ours, theirs) for _, ours, theirs in measured]))
        wrong += [f"{dtype} {case.name}: {reason}" for case, *pair in measured if (reason := judge(*pair))]
    evidence = {"call": "scaled_dot_product_attention, flash path alone, against float64", "cases": len(cases)}
    evidence |= finish(device)
    if wrong:
        return Outcome("fail", f"wrong attention: {'; '.join(wrong)}", tuple(figures), evidence, "do not serve with it")
    text = f"{len(cases)} cases in {', '.join(dtypes)} are as near to float64 as plain torch is"
    return Outcome("ok", text, tuple(figures), evidence)


def judge(ours: Errors, plain_torch: Errors) -> str | None:
    """What is wrong with the kernel's errors, null when they are within the tolerance. NaN is never within it."""
    rule = table("tolerances")["attention"]
    for name, error, allowed in (
        ("largest", ours.largest, rule["largest_error_ratio"] * plain_torch.largest + rule["floor"]),
        ("mean", ours.mean, rule["mean_error_ratio"] * plain_torch.mean + rule["floor"]),
    ):
        if not error <= allowed:
            return f"{name} error {error:.2e}, at most {allowed:.2e} allowed"
    return None


def _measure(case: Case, dtype: str, device: str, *, spoiled: bool) -> tuple[Errors, Errors]:
    query, key, value = case.inputs(dtype)
    exact = reference.attention(query, key, value, diagonal=case.diagonal)
    there = [part.to(device) for part in (query, key, value)]
    result = flash(case, *there)
    return distance(spoil(result) if spoiled else result, exact), distance(plain(case, *there), exact)


def distance(result: Tensor, exact: Tensor) -> Errors:
    """How far a result is from the reference."""
    error = (result.cpu().double() - exact).abs()
    return Errors(float(error.max()), float(error.mean()))


def _figure(dtype: str, pairs: list[tuple[Errors, Errors]]) -> Figure:
    rule = table("tolerances")["attention"]
    ratio = max(ours.largest / max(theirs.largest, rule["floor"]) for ours, theirs in pairs)
    return Figure(
        f"largest error, {dtype}",
        ratio,
        "times plain torch's",
        ceiling=rule["largest_error_ratio"],
        source=rule["source"],
    )


CHECK = Check(
    id="attention.sdpa_flash",
    proves="torch's flash attention is right on the device: as near to our float64 reference as plain torch is.",
    run=_run,
    needs=("torch",),
    each_device=True,
    faults=("wrong-result",),
)

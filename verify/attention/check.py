"""Check of one attention provider: its results, its gradients, and that its own kernel ran."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verify.attention.cases import CASES, Case, Inputs, plain
from verify.attention.providers import NO_KERNEL, device_kind, packed, paged
from verify.binaries.distributions import site_files
from verify.binaries.elf import compiled_for, native_for, read_codes
from verify.host.devices import architecture
from verify.inputs import DTYPES, corrupt, require_full_float32, synchronize
from verify.records import CheckContext, CheckResult, Figure, first_few
from verify.runner import registry
from verify.tables import table

Compute = Callable[[Case, Inputs], Tensor]

PROVIDERS = {
    provider.name: provider
    for provider in (
        *(packed.FLASH, packed.EFFICIENT, packed.CUDNN, packed.MATH, *packed.PACKAGES, *packed.VLLM),
        *(packed.AITER, paged.AITER_UNIFIED, paged.TRITON, paged.ROCM, paged.CPU),
    )
}

TOO_LONG = "it would take too long: --level full"
GRADIENTS_IN = frozenset({"quick", "standard"})
"""On `full`, gradients are computed for the cases of these levels. Serving needs no gradients."""
NO_KERNEL_TRACE = CheckResult(
    "error",
    "cannot tell which kernel ran: torch's profiler recorded nothing on this device",
    remedy="allow CUPTI (roctracer on AMD GPUs): some containers and virtual GPUs forbid it, and another profiler may be using it",
)


@dataclass(frozen=True)
class ErrorSize:
    """Largest and mean distance to the reference."""

    largest: float
    mean: float


@dataclass(frozen=True)
class ErrorComparison:
    """One comparison: the errors of a kernel, and those of the plain formula in the same precision."""

    what: str
    dtype: str
    ours: ErrorSize
    theirs: ErrorSize
    gradient: bool = False


def left_to_driver(row: Mapping[str, Any], context: CheckContext, codes: set[str], capability: str) -> str | None:
    """Return why kernels are not checked that the driver would compile first; None if they are checked.

    `codes` is the GPU code in the provider's libraries, see verify/binaries/elf.py.
    """
    if registry.is_planned(row, context) or native_for(codes, capability) or not compiled_for(codes, capability):
        return None
    return f"it has no code for {capability}, only PTX that the driver would compile for minutes, and the plan does not serve with it"


def _left_to_driver(row: Mapping[str, Any], context: CheckContext, device: str) -> str | None:
    codes: set[str] = set().union(*(read_codes(path) or () for path in site_files(row.get("code", ()))))
    return left_to_driver(row, context, codes, architecture(device)) if codes else None


def run(name: str, context: CheckContext) -> CheckResult:
    """Check the provider of a table of data/attention.toml on the device of a context."""
    provider, device = PROVIDERS[name], context.device or "cpu"
    kind = device_kind(device)
    missing = provider.missing(device) or _left_to_driver(provider.row, context, device)
    if missing and not context.faults:
        return CheckResult("skip", missing)
    # A fault changes what is observed. Without this kernel, the plain formula is observed instead.
    compute: Compute = plain if missing else provider.compute
    dtypes = DTYPES if missing else provider.dtypes(kind, device)
    measured: list[ErrorComparison] = []
    at_standard = dtypes if missing or context.includes("full") else provider.row.get("standard_dtypes", dtypes)
    refused = {dtype: TOO_LONG for dtype in dtypes if dtype not in at_standard}
    dtypes = tuple(dtype for dtype in dtypes if dtype not in refused)
    taken: list[tuple[Case, str]] = []
    require_full_float32()
    for case in (case for case in CASES if context.includes(case.level)):
        for dtype in dtypes:
            if reason := None if missing else provider.refuses(case, dtype, kind):
                refused[case.name] = reason
                continue
            backward = bool(provider.row["backward"]) and case.level in GRADIENTS_IN and context.includes("full")
            spoiled = "wrong-result" in context.faults
            how = {"spoiled": spoiled, "backward": backward, "truncated": dtype in provider.truncated()}
            try:
                measured += measure(compute, case, dtype, device, **how)
            except RuntimeError as error:
                if NO_KERNEL not in str(error):
                    raise
                refused[case.name] = f"torch has no kernel for it on this device, in {dtype}"
            else:
                taken.append((case, dtype))
    if not taken:
        evidence = {"does not support": refused, **synchronize(device)}
        return CheckResult("error", "it supports none of the problems", (), evidence)
    observed = plain if missing or "wrong-kernel" in context.faults else compute
    trace = trace_kernels(observed, *taken[0], device)
    maps = Path("/proc/self/maps").read_text()
    ran = NO_KERNEL_TRACE if trace is None else check_kernel_trace(provider.row, kind, trace, maps)
    outcome = evaluate(measured, ran)
    return replace(outcome, evidence={**outcome.evidence, "does not support": refused, **synchronize(device)})


def measure(
    compute: Compute,
    case: Case,
    dtype: str,
    device: str,
    *,
    spoiled: bool = False,
    backward: bool = False,
    truncated: bool = False,
) -> list[ErrorComparison]:
    """Compare the result of a problem, and its gradients if requested, with the reference on the CPU.

    A kernel that cuts its results (`truncated`) is compared with twice the error of the plain formula, which rounds: a cut costs a unit in
    the last place, where rounding costs half of one.
    """
    inputs = case.inputs(dtype)
    exact, there = case.exact(inputs), inputs.to(device)
    result = compute(case, there)
    ours = distance(corrupt(result) if spoiled else result, exact)
    theirs = distance(plain(case, there), exact)
    if truncated:
        theirs = ErrorSize(2 * theirs.largest, 2 * theirs.mean)
    found = [ErrorComparison(case.name, dtype, ours, theirs)]
    # The plain formula has no gradient for a row that sees no key, and no kernel has one for a cache in pages. 8-bit types have none either.
    if backward and not case.required_features & {"blind", "paged"} and inputs.query.element_size() > 1:
        slopes = [
            gradients(call, case, part) for call, part in ((compute, there), (plain, there), (Case.exact, inputs))
        ]
        for name, one, other, right in zip(("query", "key", "value"), *slopes, strict=True):
            what = f"{case.name}, gradient of the {name}"
            found.append(ErrorComparison(what, dtype, distance(one, right), distance(other, right), gradient=True))
    return found


def gradients(compute: Compute, case: Case, inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the gradients of the weighted sum of the result by query, key and value; in float64 for the reference."""
    exact = compute is Case.exact
    parts = [(part.double() if exact else part).detach().requires_grad_() for part in inputs]
    result = compute(case, Inputs(*parts))
    generator = torch.Generator().manual_seed(8)
    weights = torch.randn(result.shape, generator=generator).to(inputs.query.dtype).to(result)
    slopes: tuple[Tensor, ...] = torch.autograd.grad(result, parts, weights)
    return slopes


def distance(result: Tensor, exact: Tensor) -> ErrorSize:
    """Return the distance of a result to the reference."""
    error = (result.detach().cpu().double() - exact.detach()).abs()
    return ErrorSize(float(error.max()), float(error.mean()))


def tolerance_problem(one: ErrorComparison) -> str | None:
    """Describe an error beyond the tolerance, None if it is within. NaN is never within the tolerance."""
    rule = table("tolerances")["attention"]
    largest = rule["gradient_error_ratio" if one.gradient else "largest_error_ratio"]
    for name, error, allowed in (
        ("largest", one.ours.largest, largest * one.theirs.largest + rule["floor"]),
        ("mean", one.ours.mean, rule["mean_error_ratio"] * one.theirs.mean + rule["floor"]),
    ):
        if not error <= allowed:
            return f"{one.dtype} {one.what}: {name} error {error:.2e}, at most {allowed:.2e} allowed"
    return None


def trace_kernels(compute: Compute, case: Case, dtype: str, device: str) -> set[str] | None:
    """Return the names of the operators and kernels that the profiler records for one attention call.

    None if it records no GPU kernel although some ran. Without Kineto, torch's profiler records operators only.
    """
    inputs = case.inputs(dtype).to(device)
    compute(case, inputs)  # compiles and loads what is needed at first use
    # Use the profiler below torch.profiler, which imports torch's compiler and takes seconds.
    with torch.autograd.profiler.profile(use_device=None if device == "cpu" else "cuda", use_kineto=True) as profile:
        compute(case, inputs)
        synchronize(device)
    events = profile.key_averages()
    if device != "cpu" and all(event.device_type == torch.autograd.DeviceType.CPU for event in events):
        return None
    return {str(event.key) for event in events}


def check_kernel_trace(row: Mapping[str, Any], kind: str, trace: Collection[str], maps: str) -> CheckResult:
    """Check by kernel names and loaded libraries whether this provider computed the result."""
    kernels = sorted(name for name in trace if re.search(row["kernel"].get(kind, "(?!)"), name))
    libraries = sorted({line.split()[-1] for line in maps.splitlines() if re.search(row.get("library", "(?!)"), line)})
    evidence = {"ran": [name[:200] for name in kernels], "loaded": libraries, "profiler saw": sorted(trace)[:60]}
    if not kernels:
        others = sorted(name[:80] for name in trace if re.search("(?i)attention|flash|fmha|softmax", name))[:4]
        text = f"the profiler recorded no kernel of {row['title']}" + (f", but {', '.join(others)}" if others else "")
        return CheckResult("fail", text, (), evidence, "see which path torch takes: TORCH_LOGS=+all")
    if "library" in row and not libraries:
        return CheckResult("fail", f"no library of {row['title']} is loaded (`{row['library']}`)", (), evidence)
    return CheckResult("ok", f"{kernels[0][:60]} ran", (), evidence)


def evaluate(measured: Collection[ErrorComparison], ran: CheckResult) -> CheckResult:
    """Return one result for all comparisons and the kernel trace."""
    figures = tuple(_figures(measured))
    wrong = [text for one in measured if (text := tolerance_problem(one))]
    evidence = {"call": "each problem against float64", "comparisons": len(measured), **(ran.evidence or {})}
    if wrong:
        return CheckResult("fail", f"wrong attention: {first_few(wrong, 3)}", figures, evidence, "do not serve with it")
    if ran.status != "ok":
        return CheckResult(ran.status, ran.reason, figures, evidence, ran.remedy)
    dtypes = ", ".join(dict.fromkeys(one.dtype for one in measured))
    gradients_too = ", gradients too," if any(one.gradient for one in measured) else ""
    count = len({one.what for one in measured if not one.gradient})
    text = f"{count} problems in {dtypes}{gradients_too} are as close to float64 as plain torch is; {ran.reason}"
    return CheckResult("ok", text, figures, evidence)


def _figures(measured: Collection[ErrorComparison]) -> list[Figure]:
    """Yield the largest error of each precision relative to plain torch's, for results and for gradients."""
    rule = table("tolerances")["attention"]
    figures = []
    for dtype, gradient in dict.fromkeys((one.dtype, one.gradient) for one in measured):
        ratios = [
            one.ours.largest / max(one.theirs.largest, rule["floor"])
            for one in measured
            if (one.dtype, one.gradient) == (dtype, gradient)
        ]
        name = f"largest error, {dtype}" + (", gradients" if gradient else "")
        ceiling = rule["gradient_error_ratio" if gradient else "largest_error_ratio"]
        figures.append(Figure(name, max(ratios), "times plain torch's", ceiling=ceiling, source=rule["source"]))
    return figures

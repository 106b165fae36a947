"""memory.attention: growth of attention's memory with the sequence length."""

import math
from collections.abc import Mapping
from functools import partial
from statistics import linear_regression

import torch

from verify.attention.cases import Case
from verify.attention.providers import packed
from verify.attention.speed import SHARE, dtype_of, peak
from verify.host.devices import free_bytes
from verify.inputs import compute_in_input_precision, synchronize
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

LENGTHS = tuple(128 << step for step in range(8))
"""128 to 16,384."""
FIT_FROM = 512
"""Shorter sequences are dominated by constant buffers."""
GPU_FLASH_FIT_FROM = 4096
"""GPUs' flash kernels split shorter sequences among idle multiprocessors, and store partial results."""
CPU_HEADS, GPU_HEADS, DIM = 1, 4, 64
CPU_LONGEST = {"standard": 8192, "full": 16384}
"""Longer standard attention takes minutes on CPUs."""


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    paths = {"flash": packed.FLASH, "standard": packed.MATH}
    if device != "cpu" and (missing := packed.FLASH.missing(device)):
        return CheckResult("skip", missing)
    if "wrong-kernel" in context.faults:
        paths["flash"] = packed.MATH
    free = free_bytes(device)
    longest = (CPU_LONGEST["full" if context.includes("full") else "standard"]) if device == "cpu" else LENGTHS[-1]
    dtype, heads = dtype_of(device), CPU_HEADS if device == "cpu" else GPU_HEADS
    peaks: dict[str, dict[int, int]] = {}
    for name, provider in paths.items():
        found = peaks.setdefault(name, {})
        for length in LENGTHS:
            expected = 4 * max(found.values(), default=0)  # twice the length takes at most four times the memory
            if length > longest or expected > SHARE * free:
                break
            case = Case(f"length {length}", heads, heads, ((length, length),), DIM)
            inputs = case.inputs(dtype).to(device)
            with torch.inference_mode(), compute_in_input_precision(device):
                found[length] = peak(partial(provider.compute, case, inputs), device)
    flash_from = FIT_FROM if device == "cpu" else GPU_FLASH_FIT_FROM
    evidence = {"lengths": longest, "heads": heads, "dtype": dtype, **synchronize(device)}
    return evaluate(peaks, free, evidence, flash_from=flash_from)


def evaluate(
    peaks: Mapping[str, Mapping[int, int]], free: int, evidence: Mapping[str, object], *, flash_from: int = FIT_FROM
) -> CheckResult:
    """Evaluate the growth of memory: bytes by length, for `flash` and `standard`.

    `free` bytes limit the lengths that can run; the flash exponent is fitted from the length `flash_from` on.
    """
    rule = table("memory")["attention"]
    starts = {"flash": flash_from, "standard": FIT_FROM}
    exponents = {name: exponent(found, starts[name]) or exponent(found) for name, found in peaks.items()}
    common = sorted(set(peaks["flash"]) & set(peaks["standard"]))
    details = {**evidence, "peak bytes by length": {name: dict(found) for name, found in peaks.items()}}
    if not common or None in exponents.values():
        return CheckResult("error", "too few lengths fit into the free memory to fit an exponent", (), details)
    flash, standard = exponents["flash"] or 0.0, exponents["standard"] or 0.0
    most, least, source = rule["flash_exponent_at_most"], rule["standard_exponent_at_least"], rule["source"]
    figures = [
        Figure("exponent, flash", flash, "of the length", ceiling=most, source=source),
        Figure("exponent, standard", standard, "of the length", least, source=source),
    ]
    for length in common:
        ratio = peaks["standard"][length] / peaks["flash"][length]
        figures.append(Figure(f"standard over flash at {length}", ratio, "times the memory"))
    for name, found in peaks.items():
        # Constants lose weight with length: no path grows slower than its inputs.
        power = max(exponents[name] or 1.0, 1.0)
        longest = max(found) * (free / found[max(found)]) ** (1 / power)
        figures.append(Figure(f"longest sequence, {name}, by the fit", math.floor(longest), "tokens"))
    if not flash <= most:
        text = f"memory of flash attention grows with the power {flash:.2f} of the length: it stores the scores"
        return CheckResult("fail", text, tuple(figures), details, "see which path torch takes: TORCH_LOGS=+all")
    if not standard >= least:
        text = f"memory of standard attention grows with the power {standard:.2f} of the length: the measurement is not valid"
        return CheckResult("error", text, tuple(figures), details)
    text = "memory of flash attention grows linearly with the length, of standard attention quadratically"
    return CheckResult("ok", text, tuple(figures), details)


def exponent(found: Mapping[int, int], fit_from: int = FIT_FROM) -> float | None:
    """Return the least-squares slope of log bytes over log length; None for fewer than two lengths."""
    points = {math.log(length): math.log(size) for length, size in found.items() if length >= fit_from and size > 0}
    return linear_regression([*points], [*points.values()]).slope if len(points) > 1 else None

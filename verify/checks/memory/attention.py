"""memory.attention: flash attention takes memory in proportion to the length, not to its square."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from verify.attention_cases import Case
from verify.inputs import compute_in_input_precision, synchronize
from verify.providers import sdpa
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.tables import table

LENGTHS = tuple(128 << step for step in range(8))
"""128 to 16,384."""
FIT_FROM = 512
"""Shorter sequences are ruled by constant buffers."""
GPU_FLASH_FIT_FROM = 4096
"""GPUs' flash kernels split shorter ones among idle multiprocessors, and keep a result of each part meanwhile."""
HEADS, DIM = 4, 64
CPU_LONGEST = {"standard": 2048, "full": 4096}
"""On CPUs the standard attention of longer ones takes minutes."""
SHARE = 0.25
"""Of the free memory that one measurement may need."""


def _run(context: CheckContext) -> CheckResult:
    import torch

    device = context.device or "cpu"
    paths = {"flash": sdpa.FLASH, "standard": sdpa.MATH}
    if device != "cpu" and (missing := sdpa.FLASH.missing(device)):
        return CheckResult("skip", missing)
    if "wrong-kernel" in context.faults:
        paths["flash"] = sdpa.MATH
    free = free_bytes(device)
    longest = (CPU_LONGEST["full" if context.includes("full") else "standard"]) if device == "cpu" else LENGTHS[-1]
    dtype = "float32" if device == "cpu" else "float16"
    peaks: dict[str, dict[int, int]] = {}
    for name, provider in paths.items():
        found = peaks.setdefault(name, {})
        for length in LENGTHS:
            expected = 4 * max(found.values(), default=0)  # a doubled length takes four times as much at most
            if length > longest or expected > SHARE * free:
                break
            case = Case(f"length {length}", HEADS, HEADS, ((length, length),), DIM)
            inputs = case.inputs(dtype).to(device)
            with torch.inference_mode(), compute_in_input_precision(device):
                found[length] = peak(partial(provider.compute, case, inputs), device)
    flash_from = FIT_FROM if device == "cpu" else GPU_FLASH_FIT_FROM
    return evaluate(peaks, free, {"lengths": longest, "dtype": dtype, **synchronize(device)}, flash_from=flash_from)


def peak(work: Callable[[], object], device: str) -> int:
    """Bytes that a piece of work held at most, beyond what was there before, its result included."""
    import torch

    if device != "cpu":
        work()  # what is allocated once for all calls is none of this one's
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        kept = work()
        torch.cuda.synchronize(device)
        del kept
        return int(torch.cuda.max_memory_allocated(device) - before)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        kept = work()
    del kept
    now = highest = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return int(highest)


def free_bytes(device: str) -> int:
    """Memory that can still be had."""
    import torch

    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def evaluate(
    peaks: Mapping[str, Mapping[int, int]], free: int, evidence: Mapping[str, object], *, flash_from: int = FIT_FROM
) -> CheckResult:
    """`peaks` holds bytes by length, of `flash` and `standard`; `free` bytes decide what can be run at all.

    The flash exponent is fitted over lengths from `flash_from` on.
    """
    rule = table("memory")["attention"]
    starts = {"flash": flash_from, "standard": FIT_FROM}
    exponents = {name: exponent(found, starts[name]) or exponent(found) for name, found in peaks.items()}
    common = sorted(set(peaks["flash"]) & set(peaks["standard"]))
    told = {**evidence, "peak bytes by length": {name: dict(found) for name, found in peaks.items()}}
    if not common or None in exponents.values():
        return CheckResult("error", "too few lengths fit into the free memory to fit an exponent", (), told)
    flash, standard = exponents["flash"] or 0.0, exponents["standard"] or 0.0
    ratio = peaks["standard"][common[-1]] / peaks["flash"][common[-1]]
    figures = [
        Figure(
            "exponent, flash", flash, "of the length", ceiling=rule["flash_exponent_at_most"], source=rule["source"]
        ),
        Figure(
            "exponent, standard", standard, "of the length", rule["standard_exponent_at_least"], source=rule["source"]
        ),
        Figure(f"standard over flash at {common[-1]}", ratio, "times the memory"),
    ]
    for name, found in peaks.items():
        power = max(exponents[name] or 1.0, 1.0)  # constants fade out: no path grows slower than its inputs
        longest = max(found) * (free / found[max(found)]) ** (1 / power)
        figures.append(Figure(f"longest sequence, {name}, by the fit", math.floor(longest), "tokens"))
    if not flash <= rule["flash_exponent_at_most"]:
        text = f"flash attention takes memory by the power {flash:.2f} of the length: it keeps the scores"
        return CheckResult("fail", text, tuple(figures), told, "see which path torch takes: TORCH_LOGS=+all")
    if not standard >= rule["standard_exponent_at_least"]:
        text = (
            f"standard attention takes memory by the power {standard:.2f} of the length: the measurement is not sound"
        )
        return CheckResult("error", text, tuple(figures), told)
    text = "flash attention takes memory in proportion to the length, standard attention to its square"
    return CheckResult("ok", text, tuple(figures), told)


def exponent(found: Mapping[int, int], fit_from: int = FIT_FROM) -> float | None:
    """The slope of log bytes over log length from a length on, by least squares; null for fewer than two lengths."""
    points: Sequence[tuple[float, float]] = [
        (math.log(length), math.log(size)) for length, size in found.items() if length >= fit_from and size > 0
    ]
    if len(points) < 2:
        return None
    centre = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    return sum((x - centre[0]) * (y - centre[1]) for x, y in points) / sum((x - centre[0]) ** 2 for x, _ in points)


CHECK = Check(
    id="memory.attention",
    description="Flash attention takes memory in proportion to the length, where standard attention takes it by the square.",
    run=_run,
    level="standard",
    requires=("kernels.vector_add",),
    each_device=True,
    exclusive=True,
    faults=("wrong-kernel",),
    deadline_s=240.0,
)

"""speed.gemm, memory and copies: speed of matrix products, memory bandwidth, and copies between host and device."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from verify.checks.kernels.gemm_8bit import FP8, fp8_product, refuses_fp8
from verify.host.cpu import bind
from verify.host.load import watch
from verify.host.views import torch_view
from verify.host.views.pci import link
from verify.inputs import DTYPES, synchronize
from verify.operators.speed import evaluate, link_floor, speed_floor
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table
from verify.timing import random_sets, rotation, timed, windows

GPU_SIZE, CPU_SIZE = 8192, 256
"""Rows and columns of the matrices."""
GPU_BYTES, CPU_BYTES = 1 << 30, 128 << 20
"""Size of one buffer of memory: far more than any cache holds."""
COPIED_BYTES = 256 << 20
SUSTAINED = "bfloat16"
"""Precision of the long load: that of most models, which draws the most power."""
BUDGET_S, COPIES_BUDGET_S = 0.2, 0.3


def gemm(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    size = CPU_SIZE if device == "cpu" else GPU_SIZE
    figures = []
    with watch(torch_view.address(device)) as readings:
        for dtype in DTYPES:
            count = rotation(device, 2 * size * size * 2)
            sets = random_sets(count, size, size, dtype=dtype, device=device, parts=2)
            seconds = timed(partial(_product, sets), device, budget_s=BUDGET_S)
            least, source = speed_floor(_name(device), f"gemm_{dtype}")
            figures.append(Figure(f"{dtype} products", 2 * size**3 / seconds / 1e12, "TFLOP/s", least, source=source))
            rule = table("speed")["sustained"]
            if dtype == SUSTAINED and device != "cpu" and context.level in rule["seconds"]:
                lasts = rule["seconds"][context.level]
                turns = windows(partial(_product, sets), device, seconds=lasts, once_s=seconds)
                figures += sustained(turns, 2 * size**3, lasts)
        if device != "cpu" and refuses_fp8(device) is None:
            sets = random_sets(rotation(device, 2 * size * size), size, size, dtype=FP8, device=device, parts=2)
            seconds = timed(partial(_product_fp8, sets), device, budget_s=BUDGET_S)
            least, source = speed_floor(_name(device), "gemm_fp8")
            figures.append(Figure("fp8 products", 2 * size**3 / seconds / 1e12, "TFLOP/s", least, source=source))
    return evaluate(figures, context, {"size": size, **synchronize(device)}, readings)


def sustained(turns: Sequence[float], operations: int, lasts: float) -> Iterator[Figure]:
    """Yield the median speed of a long load, and its speed at the end over that at its start.

    Args:
        turns: Seconds of one turn in each window.
        operations: Floating-point operations of a turn.
        lasts: Seconds of the load.
    """
    rule, third = table("speed")["sustained"], len(turns) // 3 or 1
    yield Figure(f"{SUSTAINED} products over {lasts:g} s", operations / statistics.median(turns) / 1e12, "TFLOP/s")
    share = statistics.median(turns[:third]) / statistics.median(turns[-third:])
    name = f"{SUSTAINED} products at the end of {lasts:g} s over those at the start"
    yield Figure(name, share, "times", floor=rule["share"], source=rule["source"])


def _product(sets: list[tuple[Tensor, ...]], turn: int) -> Tensor:
    left, right = sets[turn % len(sets)]
    return left @ right


def _product_fp8(sets: list[tuple[Tensor, ...]], turn: int) -> Tensor:
    return fp8_product(*sets[turn % len(sets)])


def _name(device: str) -> str | None:
    return None if device == "cpu" else str(torch.cuda.get_device_name(device))


def memory(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    size = CPU_BYTES if device == "cpu" else GPU_BYTES
    origin = torch.randint(0, 1 << 62, (size // 8,), device=device)
    target = torch.empty_like(origin)
    with watch(torch_view.address(device)) as readings:
        seconds = timed(lambda _: target.copy_(origin), device, budget_s=BUDGET_S)
    least, source = speed_floor(_name(device), "memory")
    figures = [Figure("memory, read and written", 2 * size / seconds / 1e9, "GB/s", least, source=source)]
    return evaluate(figures, context, {"bytes": size, **synchronize(device)}, readings)


def copies(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    on_cpu = device == "cpu"
    if on_cpu and not context.faults:
        return CheckResult("skip", "no GPU to copy to")
    address = torch_view.address(device)
    seat = bind(address)
    # On a CPU an injected fault is proven on a copy within the host's memory.
    host = torch.randint(0, 1 << 62, (COPIED_BYTES // 8,), pin_memory=not on_cpu)
    there = torch.empty_like(host, device=device)
    figures = []
    for what, target, origin in (("to the device", there, host), ("to the host", host, there)):
        seconds = timed(partial(_copy, target, origin), device, budget_s=COPIES_BUDGET_S)
        figures.append(Figure(f"copies {what}", COPIED_BYTES / seconds / 1e9, "GB/s"))
    least, source = speed_floor(_name(device), "copy")
    if least is None and address:
        least, source = link_floor(link(address))
    figures = [replace(figure, floor=least, source=source) for figure in figures]
    return evaluate(figures, context, {"bytes": COPIED_BYTES, "memory": "pinned", **seat, **synchronize(device)})


def _copy(target: Tensor, origin: Tensor, _turn: int) -> Tensor:
    return target.copy_(origin, non_blocking=True)

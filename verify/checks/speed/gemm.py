"""speed.gemm: speed of matrix products."""

from functools import partial

import torch
from torch import Tensor

from verify.inputs import DTYPES, synchronize
from verify.operators.speed import evaluate, speed_floor
from verify.records import CheckContext, CheckResult, Figure
from verify.timing import clocks, random_sets, rotation, timed

GPU_SIZE, CPU_SIZE = 8192, 256
BUDGET_S = 0.2


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    size = CPU_SIZE if device == "cpu" else GPU_SIZE
    name = None if device == "cpu" else torch.cuda.get_device_name(device)
    figures, before = [], clocks(device)
    for dtype in DTYPES:
        count = rotation(device, 2 * size * size * 2)
        sets = random_sets(count, size, size, dtype=dtype, device=device, parts=2)
        done = timed(partial(_product, sets), device, budget_s=BUDGET_S)
        least, source = speed_floor(name, f"gemm_{dtype}")
        figures.append(Figure(f"{dtype} products", 2 * size**3 / done.median / 1e12, "TFLOP/s", least, source=source))
    evidence = {"size": size, "clocks": [before, clocks(device)], **synchronize(device)}
    return evaluate(figures, context, evidence)


def _product(sets: list[tuple[Tensor, ...]], turn: int) -> Tensor:
    left, right = sets[turn % len(sets)]
    return left @ right

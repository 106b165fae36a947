"""speed.memory: memory bandwidth of the device."""

import torch

from verify.inputs import synchronize
from verify.operators.speed import evaluate, speed_floor
from verify.records import CheckContext, CheckResult, Figure
from verify.timing import clocks, timed

GPU_BYTES, CPU_BYTES = 1 << 30, 128 << 20
"""Size of one buffer: far more than any cache holds."""
BUDGET_S = 0.2


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    size = CPU_BYTES if device == "cpu" else GPU_BYTES
    name = None if device == "cpu" else torch.cuda.get_device_name(device)
    source_buffer = torch.randint(0, 1 << 62, (size // 8,), device=device)
    target = torch.empty_like(source_buffer)
    before = clocks(device)
    done = timed(lambda _: target.copy_(source_buffer), device, budget_s=BUDGET_S)
    least, source = speed_floor(name, "memory")
    figures = [Figure("memory, read and written", 2 * size / done.median / 1e9, "GB/s", least, source=source)]
    evidence = {"bytes": size, "runs": done.runs, "clocks": [before, clocks(device)], **synchronize(device)}
    return evaluate(figures, context, evidence)

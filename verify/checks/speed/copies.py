"""speed.copies: copies between host and device."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from verify.host.cpu import bind
from verify.host.views import torch_view
from verify.host.views.pci import link
from verify.inputs import synchronize
from verify.operators.speed import evaluate, link_floor, speed_floor
from verify.records import CheckContext, CheckResult, Figure
from verify.timing import timed

BYTES = 256 << 20
BUDGET_S = 0.3


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    on_cpu = device == "cpu"
    if on_cpu and not context.faults:
        return CheckResult("skip", "no GPU to copy to")
    address = None if on_cpu else torch_view.gpus()[int(device.partition(":")[2])].pci
    seat = bind(address)
    # On a CPU an injected fault is proven on a copy within the host's memory.
    host = torch.randint(0, 1 << 62, (BYTES // 8,), pin_memory=not on_cpu)
    there = torch.empty_like(host, device=device)
    name = None if on_cpu else torch.cuda.get_device_name(device)
    figures = []
    for what, target, origin in (("to the device", there, host), ("to the host", host, there)):
        done = timed(partial(_copy, target, origin), device, budget_s=BUDGET_S)
        figures.append(Figure(f"copies {what}", BYTES / done.median / 1e9, "GB/s"))
    least, source = speed_floor(name, "copy")
    if least is None and address:
        least, source = link_floor(link(address))
    figures = [replace(figure, floor=least, source=source) for figure in figures]
    return evaluate(figures, context, {"bytes": BYTES, "memory": "pinned", **seat, **synchronize(device)})


def _copy(target: Tensor, origin: Tensor, _turn: int) -> Tensor:
    return target.copy_(origin, non_blocking=True)

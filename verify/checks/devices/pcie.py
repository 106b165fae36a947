"""devices.pcie: the card's link to the host is as wide and as fast as card and slot can make it."""

from __future__ import annotations

import time
from dataclasses import asdict

from verify.card_health import INJECTED, Observation, combine
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.views import torch_view
from verify.views.pcie import Link, link

BUSY_S = 0.2
COPY_BYTES = 64 << 20
SEAT = "reseat the card and its riser, and look at the slot's settings in the firmware (bifurcation, link speed); lspci -vv shows both ends"


def _run(context: CheckContext) -> CheckResult:
    if "sick-gpu" in context.faults:
        return evaluate(INJECTED, Link(32.0, 32.0, 8, 16))
    if context.device in (None, "cpu"):
        return CheckResult("skip", "a CPU has no link to a host")
    address = torch_view.gpus()[int(str(context.device).partition(":")[2])].pci
    if address is None:
        return CheckResult("skip", "this torch does not say where on the bus its GPUs are")
    return evaluate(address, _under_load(address, str(context.device)))


def _under_load(address: str, device: str) -> Link:
    """The link while copies go over it: one that idles slows down to save power, which is no fault."""
    import torch

    pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    until = time.monotonic() + BUSY_S
    while time.monotonic() < until:
        there.copy_(pinned, non_blocking=True)
        torch.cuda.synchronize(device)
    for _ in range(16):
        there.copy_(pinned, non_blocking=True)
    seen = link(address)
    torch.cuda.synchronize(device)
    return seen


def evaluate(address: str, seen: Link) -> CheckResult:
    """`seen` is the link under load."""
    figures = (
        Figure("lanes", seen.width, "count", floor=seen.width_at_most, source="what card and slot say they can"),
        Figure("speed", seen.speed, "GT/s", floor=seen.speed_at_most, source="what card and slot say they can"),
    )
    if seen.width is None or seen.speed is None:
        return CheckResult(
            "skip", f"the kernel does not know the link of {address} (a virtual machine)", figures, asdict(seen)
        )
    said = []
    if seen.width_at_most and seen.width < seen.width_at_most:
        said.append(Observation("warn", f"{address} has {seen.width} lanes of {seen.width_at_most}", SEAT))
    if seen.speed_at_most and seen.speed < seen.speed_at_most:
        text = f"{address} does {seen.speed:g} of {seen.speed_at_most:g} GT/s under load"
        said.append(Observation("warn", text, SEAT))
    healthy = f"{address} has {seen.width} lanes of {seen.speed:g} GT/s under load, all that card and slot can"
    return combine(said, healthy, figures, asdict(seen))


CHECK = Check(
    id="devices.pcie",
    description="Under load, the card's link has the lanes and the speed that card and slot can both do.",
    run=_run,
    level="standard",
    requires=("kernels.vector_add",),
    each_device=True,
    faults=("sick-gpu",),
)

"""devices.pcie: width and speed of the card's PCIe link."""

import time
from dataclasses import asdict

from verify.host.card_health import INJECTED
from verify.host.views import torch_view
from verify.host.views.pci import Link, link
from verify.records import CheckContext, CheckResult, Figure, Observation, combine

BUSY_S = 0.2
COPY_BYTES = 64 << 20
SEAT = "reseat the GPU and its riser, and check the slot's settings in the firmware (bifurcation, link speed); lspci -vv shows both ends"


def run(context: CheckContext) -> CheckResult:
    if "sick-gpu" in context.faults:
        return evaluate(INJECTED, Link(32.0, 32.0, 8, 16))
    if context.device in (None, "cpu"):
        return CheckResult("skip", "a CPU has no PCIe link")
    address = torch_view.address(str(context.device))
    if address is None:
        return CheckResult("skip", "this torch does not report the PCI addresses of its GPUs")
    return evaluate(address, _under_load(address, str(context.device)))


def _under_load(address: str, device: str) -> Link:
    """Return the link during copies. An idle link slows down to save power, which is no fault."""
    torch = torch_view.load()
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
    """Compare the link under load with the maximum of card and slot."""
    figures = (
        Figure("lanes", seen.width, "count", floor=seen.width_at_most, source="maximum of GPU and slot"),
        Figure("speed", seen.speed, "GT/s", floor=seen.speed_at_most, source="maximum of GPU and slot"),
    )
    if seen.width is None or seen.speed is None:
        text = f"the kernel does not report the link of {address} (a virtual machine)"
        return CheckResult("skip", text, figures, asdict(seen))
    observations = []
    if seen.width_at_most and seen.width < seen.width_at_most:
        observations.append(Observation("warn", f"{address} has {seen.width} of {seen.width_at_most} lanes", SEAT))
    if seen.speed_at_most and seen.speed < seen.speed_at_most:
        text = f"{address} runs at {seen.speed:g} of {seen.speed_at_most:g} GT/s under load"
        observations.append(Observation("warn", text, SEAT))
    healthy = f"{address} has {seen.width} lanes of {seen.speed:g} GT/s under load, the maximum of GPU and slot"
    return combine(observations, healthy, figures, asdict(seen))

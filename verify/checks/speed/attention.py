"""speed.attention: speed of flash attention compared with standard attention."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from verify.inputs import compute_in_input_precision, synchronize
from verify.records import CheckContext, CheckResult, Figure
from verify.speed_check import device_speed, evaluate
from verify.tables import table
from verify.timing import clocks, random_sets, rotation, timed

if TYPE_CHECKING:
    from torch import Tensor

BUDGET_S = 0.2
SWEEP = tuple((1, sequence, 16, dim) for sequence in (1024, 4096, 8192) for dim in (64, 128))
"""Additional points for GPUs on `full`."""


def _run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    on_cpu = device == "cpu"
    points = [tuple(point) for point in table("speed")["points"]]
    if on_cpu and not context.includes("full"):
        points = points[:1]
    if context.includes("full") and not on_cpu:
        points += SWEEP
    figures, rows, before = [], [], clocks(device)
    for point in points:
        row = measure(point, device, backward=not on_cpu and context.includes("full"))
        rows.append({"point": point, **{name: seconds * 1000 for name, seconds in row.items()}})
        figures.append(Figure(f"flash {_name(point)}", operations(point) / row["flash"] / 1e12, "TFLOP/s"))
        # A faster standard attention is a warning on GPUs; on CPUs it is only recorded.
        least = None if on_cpu else 1.0
        if "standard" not in row:
            continue
        ratio = row["standard"] / row["flash"]
        figures.append(
            Figure(
                f"standard over flash {_name(point)}", ratio, "times the time", floor=least, source="no gain, no flash"
            )
        )
    evidence = {"milliseconds": rows, "dtype": "float16", "clocks": [before, clocks(device)], **synchronize(device)}
    return evaluate(figures, context, evidence)


def measure(point: tuple[int, ...], device: str, *, backward: bool) -> dict[str, float]:
    """Return median seconds of flash and standard attention in float16; `backward` times both passes together.

    There is no `standard` if the device has no memory for its scores.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    batch, sequence, heads, dim = point
    count = rotation(device, 3 * 2 * batch * sequence * heads * dim)
    sets = random_sets(count, batch, heads, sequence, dim, dtype="float16", device=device, parts=3)
    seconds = {}

    def forward(turn: int) -> Tensor:
        with torch.no_grad():  # the inputs may require gradients, but nothing is stored for a backward pass here
            return scaled_dot_product_attention(*sets[turn % count])

    def both(turn: int) -> None:
        parts = [part.requires_grad_() for part in sets[turn % count]]
        torch.autograd.grad(scaled_dot_product_attention(*parts).sum(), parts)

    for name, path in (("flash", SDPBackend.FLASH_ATTENTION), ("standard", SDPBackend.MATH)):
        with sdpa_kernel(path), compute_in_input_precision(device):
            try:
                seconds[name] = timed(forward, device, budget_s=BUDGET_S).median
                if backward:
                    seconds[f"{name}, both passes"] = timed(partial(both), device, budget_s=BUDGET_S).median
            except torch.OutOfMemoryError:
                if path == SDPBackend.FLASH_ATTENTION:
                    raise
    return seconds


def operations(point: tuple[int, ...]) -> float:
    """Return the operations of a forward pass without mask: two products of sequence x sequence x dim per head, with additions."""
    batch, sequence, heads, dim = point
    return 4.0 * batch * heads * sequence * sequence * dim


def _name(point: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, point))})"


CHECK = device_speed(
    "speed.attention",
    "Flash attention is faster than standard attention at fixed points; both are timed.",
    _run,
    deadline_s=240.0,
)

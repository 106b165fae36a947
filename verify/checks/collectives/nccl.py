"""collectives.nccl: NCCL collectives (RCCL on AMD cards) between the GPUs, their results and speed."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from verify.host.views.torch_view import names
from verify.operators.collectives import evaluate, run_collectives
from verify.operators.speed import SLOWED
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

LARGE_BYTES = 1 << 30
"""Size of the timed array: large enough that links dominate, not kernel launches."""


def run(context: CheckContext) -> CheckResult:
    devices = [device for device in context.devices if device != "cpu"]
    if len(devices) < 2:
        if not context.faults:
            return CheckResult("skip", "there are fewer than two GPUs")
        # Without GPUs an injected fault is proven on two CPU processes.
        answers = run_collectives(["cpu", "cpu"], backend="gloo", faults=context.faults, large_bytes=1 << 20)
        return evaluate_speed(answers, ("cpu", "cpu"), 1 << 20, context.faults)
    answers = run_collectives(devices, backend="nccl", faults=context.faults, large_bytes=LARGE_BYTES)
    return evaluate_speed(answers, names(), LARGE_BYTES, context.faults)


def evaluate_speed(
    answers: Mapping[int, Mapping[str, Any]], cards: tuple[str, ...], large_bytes: int, faults: frozenset[str]
) -> CheckResult:
    """Evaluate results and speed of the processes. A bus bandwidth below the floor of the `cards` is a warning."""
    remedy = "see NCCL's log: NCCL_DEBUG=INFO, then ./firstlight doctor on that output"
    outcome = evaluate(answers, {"backend": "nccl", "devices": list(cards)}, remedy)
    if outcome.status != "ok":
        return outcome
    count, seconds = len(answers), max(answer["seconds"] for answer in answers.values())
    # In a ring each process sends and receives 2 (n - 1) / n times the array (nccl-tests, doc/PERFORMANCE.md).
    speed = 2 * (count - 1) / count * large_bytes / seconds / 1e9
    least, source = bus_floor(cards)
    if "slow" in faults:
        least = least or speed
        speed *= SLOWED
    bus = Figure("bus of an all-reduce", speed, "GB/s", floor=least, source=source)
    outcome = replace(outcome, figures=(*outcome.figures, bus))
    if least is not None and not speed >= least:
        text = f"an all-reduce reaches {speed:.3g} GB/s of bus bandwidth per GPU, the floor is {least:.3g}"
        links = "check the links between the GPUs: nvidia-smi nvlink --status, nvidia-smi topo -m"
        return replace(outcome, status="warn", reason=text, remedy=links)
    return replace(outcome, reason=f"{outcome.reason}; an all-reduce reaches {speed:.3g} GB/s")


def bus_floor(cards: tuple[str, ...]) -> tuple[float | None, str | None]:
    """Return the minimum bus bandwidth of an all-reduce in GB/s and its source; None if unknown.

    A floor applies to a complete board of equal cards on one switch; no figures are published for other systems.
    """
    rows = table("speed")
    for row in rows["all_reduce"]:
        if len(cards) == row["cards"] and all(re.fullmatch(row["match"], name) for name in cards):
            return row["bus"] * rows["share"]["all_reduce"], row["source"]
    return None, None

"""collectives.peers: what one GPU's kernels write into another's memory is there when its owner reads it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

from verify.inputs import corrupt, count_differences, rank_values, synchronize
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.tables import table

ROWS, COLUMNS = 2048, 1031
"""Of the numbers that are written: 8 MiB, in rows of odd length."""


def _run(context: CheckContext) -> CheckResult:
    devices = [device for device in context.devices if device != "cpu"]
    if len(devices) < 2:
        if not context.faults:
            return CheckResult("skip", "there are no two GPUs that could write to one another")
        # Where there are none an injected fault is proven on the host's own memory.
        return evaluate({"cpu -> cpu": _pair("cpu", "cpu", context.faults)})
    return evaluate({f"{one} -> {two}": _pair(one, two, context.faults) for one, two in permutations(devices, 2)})


def _pair(writer: str, owner: str, faults: frozenset[str]) -> dict[str, Any]:
    """How many numbers are `wrong`, and whether it went `direct`."""
    import torch

    direct = writer == "cpu" or torch.cuda.can_device_access_peer(writer, owner)
    numbers = rank_values(ROWS * COLUMNS, 0).reshape(ROWS, COLUMNS)
    sent, arrived = numbers.to(writer, copy=True), torch.zeros(COLUMNS, ROWS, device=owner)
    # The transposed target is what no copy engine can do: a kernel of the writer stores each number in the owner's memory.
    arrived.t().copy_(sent)
    synchronize(writer)
    synchronize(owner)
    # The comparison is a kernel of the owner: a mirror that shows writers their own data deceives writers alone.
    there = corrupt(arrived) if "wrong-result" in faults else arrived
    count = count_differences(there, numbers.t().to(owner))
    return {"wrong": count, "direct": direct}


def evaluate(pairs: Mapping[str, Mapping[str, Any]]) -> CheckResult:
    """`pairs` hold what `_pair` gives, by `writer -> owner`. Numbers that do not arrive are a warning: one can serve without."""
    bad = {name: pair["wrong"] for name, pair in pairs.items() if pair["wrong"]}
    figures = (
        Figure(
            "pairs whose writes do not arrive",
            len(bad),
            "count",
            ceiling=0,
            source="whole numbers, read by their owner",
        ),
    )
    evidence = {"call": "a strided copy by the writer, compared by the owner", "pairs": dict(pairs)}
    if bad:
        told = ", ".join(f"{name} ({count} of {ROWS * COLUMNS} numbers)" for name, count in list(bad.items())[:4])
        text = f"writes do not arrive in the other card's memory: {told}"
        return CheckResult("warn", text, figures, evidence, table("peers")["remedy"]["text"])
    staged = sum(not pair["direct"] for pair in pairs.values())
    way = f"{staged} of {len(pairs)} pairs by way of the host" if staged else "all of them directly"
    text = f"writes of {len(pairs)} pairs of GPUs arrive, {way}"
    return CheckResult("ok", text, figures, evidence)


CHECK = Check(
    id="collectives.peers",
    description="For each ordered pair of GPUs: what a kernel of the one writes into the memory of the other, that one reads.",
    run=_run,
    level="standard",
    requires=("kernels.vector_add",),
    all_devices=True,
    exclusive=True,
    lasting=True,
    faults=("wrong-result",),
    deadline_s=120.0,
)

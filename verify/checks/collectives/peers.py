"""collectives.peers: writes of one GPU's kernels into another GPU's memory."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch

from verify.inputs import corrupt, count_differences, rank_values, synchronize
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

ROWS, COLUMNS = 2048, 1031
"""Shape of the numbers that are written: 8 MiB in rows of odd length."""


def run(context: CheckContext) -> CheckResult:
    devices = [device for device in context.devices if device != "cpu"]
    if len(devices) < 2:
        if not context.faults:
            return CheckResult("skip", "there are fewer than two GPUs")
        # Without GPUs an injected fault is proven on the host's own memory.
        return evaluate({"cpu -> cpu": _pair("cpu", "cpu", context.faults)})
    return evaluate({f"{one} -> {two}": _pair(one, two, context.faults) for one, two in permutations(devices, 2)})


def _pair(writer: str, owner: str, faults: frozenset[str]) -> dict[str, Any]:
    """Return how many numbers are `wrong`, and whether the writes are `direct`."""
    direct = writer == "cpu" or torch.cuda.can_device_access_peer(writer, owner)
    numbers = rank_values(ROWS * COLUMNS, 0).reshape(ROWS, COLUMNS)
    sent, arrived = numbers.to(writer, copy=True), torch.zeros(COLUMNS, ROWS, device=owner)
    # A copy engine cannot transpose, so a kernel of the writer stores each number in the owner's memory.
    arrived.t().copy_(sent)
    synchronize(writer)
    synchronize(owner)
    # The owner compares, because a path that only mirrors data to the writer would deceive the writer.
    there = corrupt(arrived) if "wrong-result" in faults else arrived
    count = count_differences(there, numbers.t().to(owner))
    return {"wrong": count, "direct": direct}


def evaluate(pairs: Mapping[str, Mapping[str, Any]]) -> CheckResult:
    """Evaluate the pairs (`writer -> owner`, as from `_pair`). Lost writes are a warning, because serving works without them."""
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
        details = ", ".join(f"{name} ({count} of {ROWS * COLUMNS} numbers)" for name, count in list(bad.items())[:4])
        text = f"writes do not arrive in the other GPU's memory: {details}"
        return CheckResult("warn", text, figures, evidence, table("peers")["remedy"]["text"])
    staged = sum(not pair["direct"] for pair in pairs.values())
    way = f"{staged} of {len(pairs)} pairs through the host" if staged else "all of them directly"
    text = f"writes of {len(pairs)} pairs of GPUs arrive, {way}"
    return CheckResult("ok", text, figures, evidence)

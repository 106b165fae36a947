"""collectives.pairs and peers: copies between every two GPUs, and writes of one GPU's kernels into another's memory."""

import statistics
from collections.abc import Mapping
from itertools import combinations, permutations
from typing import Any

import torch

from verify.host.views import torch_view
from verify.inputs import corrupt, count_differences, rank_values, synchronize
from verify.operators.speed import board_floor, status_of
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table
from verify.timing import timed

FEWER = CheckResult("skip", "there are fewer than two GPUs")
COPIED_BYTES = 256 << 20
BUDGET_S = 0.05
INJECTED_SHARE = 0.25
"""Factor that the injected fault applies to the first pair's speed."""
ROWS, COLUMNS = 2048, 1031
"""Shape of the numbers that are written: 8 MiB in rows of odd length."""


def pairs(context: CheckContext) -> CheckResult:
    gpus = context.gpus
    if len(gpus) < 2 and not context.faults:
        return FEWER
    found = {f"{one} -> {two}": _copies(one, two, COPIED_BYTES) for one, two in permutations(gpus, 2)}
    # Without GPUs an injected fault is proven on the host's own memory.
    found = found or {f"cpu -> cpu, {turn}": _copies("cpu", "cpu", COPIED_BYTES >> 6) for turn in range(2)}
    if "slow" in context.faults:
        least = min(pair["bytes_per_s"] for pair in found.values())
        next(iter(found.values()))["bytes_per_s"] = least * INJECTED_SHARE
    both = {f"{one} <-> {two}": _both_ways(one, two, COPIED_BYTES // 2) for one, two in combinations(gpus, 2)}
    return evaluate_pairs(found, tuple(gpu.name or "" for gpu in torch_view.gpus()) if len(gpus) > 1 else (), both)


def _copies(writer: str, owner: str, copied_bytes: int) -> dict[str, Any]:
    """Return whether copies are `direct`, `bytes_per_s` of a large copy and `latency_s` of a small one."""
    direct = writer == "cpu" or torch.cuda.can_device_access_peer(writer, owner)
    source = torch.ones(copied_bytes // 4, device=writer)
    target = torch.empty_like(source, device=owner)
    large = timed(lambda _: target.copy_(source), writer, budget_s=BUDGET_S)
    small = timed(lambda _: target[:1].copy_(source[:1]), writer, budget_s=BUDGET_S / 5)
    return {"direct": direct, "bytes_per_s": copied_bytes / large, "latency_s": small}


def _both_ways(one: str, two: str, copied_bytes: int) -> float:
    """Return bytes/s of two copies in opposite directions at once, added.

    torch lets a copy wait for the current streams of both GPUs, so the second copy has streams of its own.
    """
    numbers = [torch.ones(copied_bytes // 4, device=gpu) for gpu in (one, two, two, one)]
    there, back = numbers[:2], numbers[2:]
    streams = [torch.cuda.Stream(gpu) for gpu in (one, two)]

    def work(_turn: int) -> None:
        first = torch.cuda.current_stream(one)
        for stream in streams:
            stream.wait_stream(first)
        there[1].copy_(there[0], non_blocking=True)
        with torch.cuda.stream(streams[0]), torch.cuda.stream(streams[1]):
            back[1].copy_(back[0], non_blocking=True)
        for stream in streams:
            first.wait_stream(stream)

    return 2 * copied_bytes / timed(work, one, budget_s=BUDGET_S)


def evaluate_pairs(
    pairs: Mapping[str, Mapping[str, Any]], cards: tuple[str, ...] = (), both: Mapping[str, float] | None = None
) -> CheckResult:
    """Compare each pair with the median of the pairs on the same kind of path, and the slowest one with the floor of the board.

    Args:
        pairs: `writer -> owner`, as from `_copies`.
        cards: The names of all GPUs.
        both: `one <-> other`, as from `_both_ways`. Nobody publishes a floor for these speeds, so they are only recorded.
    """
    rule = table("peers")["pairs"]
    shares: dict[str, float] = {}
    for direct in (True, False):
        speeds = {name: pair["bytes_per_s"] for name, pair in pairs.items() if pair["direct"] is direct}
        shares |= {name: speed / statistics.median(speeds.values()) for name, speed in speeds.items()}
    slowest = min(pairs, key=lambda name: pairs[name]["bytes_per_s"])
    behind = min(shares, key=lambda name: shares[name])
    speed = pairs[slowest]["bytes_per_s"] / 1e9
    least, source = board_floor(cards, "pair")
    figures = (
        Figure("slowest copy between two", speed, "GB/s", floor=least, source=source),
        Figure("slowest pair", shares[behind], "of the median", floor=rule["share"], source=rule["source"]),
        *([Figure("slowest copies in both directions at once", min(both.values()) / 1e9, "GB/s")] if both else []),
        Figure("latest small copy", max(pair["latency_s"] for pair in pairs.values()) * 1e6, "us"),
    )
    evidence = {"pairs": dict(pairs), "both_ways_bytes_per_s": dict(both or {})}
    slow = [name for name, share in shares.items() if not share >= rule["share"]]
    if slow:
        details = ", ".join(f"{name} {pairs[name]['bytes_per_s'] / 1e9:.3g} GB/s" for name in slow[:4])
        text = (
            f"{len(slow)} of {len(pairs)} pairs of GPUs copy slower than {rule['share']:.0%} of the median: {details}"
        )
        return CheckResult("warn", text, figures, evidence, rule["remedy"])
    status = status_of(speed, least)
    if status != "ok":
        text = f"copies between two GPUs reach {speed:.3g} GB/s ({slowest}), the floor of this board is {least:.3g}"
        return CheckResult(status, text, figures, evidence, rule["remedy"])
    staged = sum(not pair["direct"] for pair in pairs.values())
    way = f"{staged} of {len(pairs)} through the host" if staged else "all directly"
    text = f"{len(pairs)} pairs of GPUs copy, {way}; the slowest, {slowest}, {speed:.3g} GB/s"
    return CheckResult("ok", text, figures, evidence)


def peers(context: CheckContext) -> CheckResult:
    gpus = context.gpus
    if len(gpus) < 2 and not context.faults:
        return FEWER
    # Without GPUs an injected fault is proven on the host's own memory.
    ways = [*permutations(gpus, 2)] or [("cpu", "cpu")]
    return evaluate_peers({f"{one} -> {two}": _writes(one, two, context.faults) for one, two in ways})


def _writes(writer: str, owner: str, faults: frozenset[str]) -> dict[str, Any]:
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


def evaluate_peers(pairs: Mapping[str, Mapping[str, Any]]) -> CheckResult:
    """Evaluate the pairs (`writer -> owner`, as from `_writes`). Lost writes are a warning, because serving works without them."""
    bad = {name: pair["wrong"] for name, pair in pairs.items() if pair["wrong"]}
    source = "whole numbers, read by their owner"
    figures = (Figure("pairs whose writes do not arrive", len(bad), "count", ceiling=0, source=source),)
    evidence = {"call": "a strided copy by the writer, compared by the owner", "pairs": dict(pairs)}
    if bad:
        details = ", ".join(f"{name} ({count} of {ROWS * COLUMNS} numbers)" for name, count in list(bad.items())[:4])
        text = f"writes do not arrive in the other GPU's memory: {details}"
        return CheckResult("warn", text, figures, evidence, table("peers")["remedy"]["text"])
    staged = sum(not pair["direct"] for pair in pairs.values())
    way = f"{staged} of {len(pairs)} pairs through the host" if staged else "all of them directly"
    text = f"writes of {len(pairs)} pairs of GPUs arrive, {way}"
    return CheckResult("ok", text, figures, evidence)

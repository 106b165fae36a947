"""collectives.gloo, nccl, pairs and peers: exchange between processes and GPUs of this host, compared exactly; gloo on CPUs, NCCL (RCCL on AMD cards) on GPUs."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from verify.host.devices import card_name
from verify.inputs import bus_bytes, corrupt, count_differences, median_s, rank_values, reduce_sum, synchronize, timed
from verify.operators.speed import SLOWED, board_floor, status_of
from verify.records import CheckContext, CheckResult, Figure, worst_status
from verify.runner.child_processes import Task, run_all
from verify.tables import table

LENGTH = 100_003
"""Numbers per process; not a power of two, so that pieces differ in size."""
LOOPBACK = "lo"
LARGE_BYTES = 1 << 30
"""Size of the timed array: large enough that links dominate, not kernel launches."""
RENDEZVOUS_S, DEADLINE_S = 45.0, 75.0
"""Eight cards that are used for the first time since boot need tens of seconds to start NCCL."""
WARM_UP, RUNS = 3, 9
"""Of the timed reduction. Every process takes part equally often, so no time budget can end it."""
FEWER = CheckResult("skip", "there are fewer than two GPUs")


def gloo(context: CheckContext) -> CheckResult:
    if not dist.is_available() or not dist.is_gloo_available():
        return CheckResult("skip", "this torch is built without gloo")
    answers = run_collectives(["cpu"] * 2, backend="gloo", faults=context.faults)
    remedy = f"check that the loopback interface is up: ip address show {LOOPBACK}; a firewall must allow it"
    return evaluate_collectives(answers, {"backend": "gloo", "interface": LOOPBACK}, remedy)


def nccl(context: CheckContext) -> CheckResult:
    if len(context.gpus) < 2:
        if not context.faults:
            return FEWER
        # Without GPUs an injected fault is proven on two CPU processes.
        answers = run_collectives(["cpu", "cpu"], backend="gloo", faults=context.faults, large_bytes=1 << 20)
        return evaluate_bus(answers, ("cpu", "cpu"), 1 << 20, context.faults)
    answers = run_collectives(context.gpus, backend="nccl", faults=context.faults, large_bytes=LARGE_BYTES)
    names = tuple(map(card_name, context.gpus))
    return evaluate_bus(answers, names, LARGE_BYTES, context.faults)


def evaluate_bus(
    answers: Mapping[int, Mapping[str, Any]], cards: tuple[str, ...], large_bytes: int, faults: frozenset[str]
) -> CheckResult:
    """Evaluate results and speed of the processes. A bus bandwidth below the floor of the `cards` is a warning, far below it a failure."""
    remedy = "see NCCL's log: NCCL_DEBUG=INFO, then ./firstlight doctor on that output"
    outcome = evaluate_collectives(answers, {"backend": "nccl", "devices": list(cards)}, remedy)
    if outcome.status != "ok":
        return outcome
    count, seconds = len(answers), max(answer["seconds"] for answer in answers.values())
    speed = bus_bytes(large_bytes, count) / seconds / 1e9
    least, source = board_floor(cards, "bus")
    if "slow" in faults:
        least = least or speed
        speed *= SLOWED
    bus = Figure("bus of an all-reduce", speed, "GB/s", floor=least, source=source)
    outcome = replace(outcome, figures=(*outcome.figures, bus))
    status = status_of(speed, least)
    if status != "ok":
        text = f"an all-reduce reaches {speed:.3g} GB/s of bus bandwidth per GPU, the floor is {least:.3g}"
        links = "check the links between the GPUs: nvidia-smi nvlink --status, nvidia-smi topo -m"
        return replace(outcome, status=status, reason=text, remedy=links)
    return replace(outcome, reason=f"{outcome.reason}; an all-reduce reaches {speed:.3g} GB/s")


def run_collectives(
    devices: Sequence[str], *, backend: str, faults: frozenset[str], large_bytes: int = 0
) -> dict[int, dict[str, Any]]:
    """Run the collectives with one process per device, and time an all-reduce of `large_bytes` unless that is 0.

    Returns by rank `wrong`, the wrong elements per collective, and `seconds`; or `problem` and `output` of a failed process.
    """
    with TemporaryDirectory() as folder:
        run_rank = partial(
            _run_rank,
            devices=devices,
            store_path=Path(folder) / "store",
            backend=backend,
            large_bytes=large_bytes,
            spoiled="wrong-result" in faults,
        )
        tasks = [Task(rank, partial(run_rank, rank), DEADLINE_S) for rank in range(len(devices))]
        endings = dict(run_all(tasks, limit=len(tasks)))
    return {
        rank: ending.value if ending.problem is None else {"problem": ending.problem, "output": ending.output}
        for rank, ending in sorted(endings.items())
    }


def evaluate_collectives(
    answers: Mapping[int, Mapping[str, Any]], evidence: Mapping[str, Any], remedy: str
) -> CheckResult:
    """Return whether every process finished with exact numbers; `remedy` is for processes that could not connect."""
    evidence = {**evidence, "processes": dict(answers)}
    broken = [f"process {rank}: {answer['problem']}" for rank, answer in answers.items() if "problem" in answer]
    if broken:
        return CheckResult("fail", f"the processes could not communicate: {'; '.join(broken)}", (), evidence, remedy)
    sums = {name: sum(answer["wrong"][name] for answer in answers.values()) for name in answers[0]["wrong"]}
    figures = tuple(Figure(f"{name}, wrong numbers", count, "count", ceiling=0) for name, count in sums.items())
    bad = [f"{name} gave {count} wrong numbers" for name, count in sums.items() if count]
    if bad:
        again = "reinstall the environment: ./firstlight provision"
        return CheckResult("fail", "; ".join(bad), figures, evidence, again)
    text = f"{', '.join(sums)} of {len(answers)} processes are exact for all {LENGTH} numbers"
    return CheckResult("ok", text, figures, evidence)


def _run_rank(
    rank: int,
    *,
    devices: Sequence[str],
    store_path: Path,
    backend: str,
    large_bytes: int,
    spoiled: bool,
) -> dict[str, Any]:
    """Run one process, and compare what it received with what all processes sent."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = LOOPBACK
    world, device = len(devices), devices[rank]
    if device != "cpu":
        torch.cuda.set_device(device)
    meeting, limit = f"file://{store_path}", timedelta(seconds=RENDEZVOUS_S)
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world, timeout=limit)
    given = [rank_values(LENGTH, number) for number in range(world)]
    total = torch.stack(given).sum(dim=0)

    reduced = given[rank].to(device, copy=True)
    dist.all_reduce(reduced)
    gathered = [torch.zeros(LENGTH, device=device) for _ in range(world)]
    dist.all_gather(gathered, given[rank].to(device))
    got = {"all-reduce": (reduced, total), "all-gather": (torch.stack(gathered), torch.stack(given))}
    piece = torch.zeros(LENGTH, device=device)
    try:
        dist.reduce_scatter(piece, [given[rank].to(device) * (place + 1) for place in range(world)])
        got["reduce-scatter"] = (piece, total * (rank + 1))
    except RuntimeError as error:
        # gloo has it since torch 2.8, and older releases fail before they send anything; vLLM does not use it with gloo.
        if "does not support reduce_scatter" not in str(error):
            raise
    here = {name: (one.cpu(), two) for name, (one, two) in got.items()}
    counted = {name: count_differences(corrupt(one) if spoiled else one, two) for name, (one, two) in here.items()}
    seconds = None
    if large_bytes:
        large = torch.ones(large_bytes // 4, device=device)
        seconds = median_s(lambda: reduce_sum(large), RUNS, WARM_UP)
    dist.destroy_process_group()
    return {"wrong": counted, "seconds": seconds}


COPIED_BYTES = 256 << 20
BUDGET_S = 0.05
INJECTED_SHARE = 0.25
"""Factor that the injected fault applies to the first pair's speed."""
ROWS, COLUMNS = 2048, 1031
"""Shape of the numbers that are written: 8 MiB in rows of odd length."""
CONNECTED = 8
"""How many GPUs a process connects to one another. Without an NVSwitch a GPU has at most eight peers (CUDA Runtime API,
`cudaDeviceEnablePeerAccess`); torch never disconnects one, and fails at the next with `peer mapping resources exhausted`."""
PART_S = 60.0
"""Deadline of a process that measures a part of the pairs."""
Pair = tuple[str, str]


def _parts(gpus: Sequence[str]) -> list[list[Pair]]:
    """Return all pairs of GPUs in parts, of which none has more than CONNECTED GPUs."""
    half = CONNECTED // 2
    blocks = [gpus[at : at + half] for at in range(0, len(gpus), half)]
    parts: list[list[Pair]] = []
    for one, two in combinations(blocks, 2):
        earlier = {pair for part in parts for pair in part}
        parts.append([pair for pair in combinations((*one, *two), 2) if pair not in earlier])
    return parts


def _of_pairs(gpus: Sequence[str], measure: Callable[[str, str], Any]) -> dict[Pair, Any]:
    """Measure each pair of GPUs; where there are more than a process connects, by processes one after the other.

    Raises:
        RuntimeError: One of these processes failed.
    """
    if len(gpus) <= CONNECTED:
        return {pair: measure(*pair) for pair in combinations(gpus, 2)}
    parts = _parts(gpus)

    def measure_part(number: int) -> list[Any]:
        return [measure(*pair) for pair in parts[number]]

    found: dict[Pair, Any] = {}
    tasks = [Task(number, partial(measure_part, number), PART_S) for number in range(len(parts))]
    for number, ending in run_all(tasks, limit=1):
        if ending.problem is not None:
            raise RuntimeError(f"a process for {len(parts[number])} pairs: {ending.problem}")
        found |= zip(parts[number], ending.value, strict=True)
    return found


def pairs(context: CheckContext) -> CheckResult:
    gpus = context.gpus
    if len(gpus) < 2 and not context.faults:
        return FEWER
    found: dict[str, dict[str, Any]] = {}
    both: dict[str, float] = {}
    for (one, two), (there, back, at_once) in _of_pairs(gpus, _all_copies).items():
        found |= {f"{one} -> {two}": there, f"{two} -> {one}": back}
        both[f"{one} <-> {two}"] = at_once
    # Without GPUs an injected fault is proven on the host's own memory.
    found = found or {f"cpu -> cpu, {turn}": _copies("cpu", "cpu", COPIED_BYTES >> 6) for turn in range(2)}
    if "slow" in context.faults:
        least = min(pair["bytes_per_s"] for pair in found.values())
        next(iter(found.values()))["bytes_per_s"] = least * INJECTED_SHARE
    return evaluate_pairs(found, tuple(map(card_name, gpus)), both)


def _all_copies(one: str, two: str) -> tuple[dict[str, Any], dict[str, Any], float]:
    there, back = _copies(one, two, COPIED_BYTES), _copies(two, one, COPIED_BYTES)
    return there, back, _both_ways(one, two, COPIED_BYTES // 2)


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

    `pairs` (`writer -> owner`) are from `_copies`, `both` from `_both_ways`.
    """
    rule = table("peers")["pairs"]
    shares: dict[str, float] = {}
    for direct in (True, False):
        speeds = {name: pair["bytes_per_s"] for name, pair in pairs.items() if pair["direct"] is direct}
        shares |= {name: speed / statistics.median(speeds.values()) for name, speed in speeds.items()}
    behind = min(shares, key=lambda name: shares[name])
    one_way = {name: pair["bytes_per_s"] for name, pair in pairs.items()}
    slowest, copy = _slowest("copy between two", one_way, board_floor(cards, "pair"))
    copies = [(slowest, copy)]
    if both:
        copies.append(_slowest("copies in both directions at once", both, board_floor(cards, "both")))
    figures = (
        copy,
        Figure("slowest pair", shares[behind], "of the median", floor=rule["share"], source=rule["source"]),
        *(figure for _, figure in copies[1:]),
        Figure("latest small copy", max(pair["latency_s"] for pair in pairs.values()) * 1e6, "us"),
    )
    evidence = {"pairs": dict(pairs), "both_ways_bytes_per_s": dict(both or {})}
    slow = [name for name, share in shares.items() if not share >= rule["share"]]
    if slow:
        details = ", ".join(f"{name} {pairs[name]['bytes_per_s'] / 1e9:.3g} GB/s" for name in slow[:4])
        text = f"{len(slow)} of {len(pairs)} pairs of GPUs copy slower than {rule['share']:.0%} of the median"
        return CheckResult("warn", f"{text}: {details}", figures, evidence, rule["remedy"])
    statuses = [status_of(figure.value, figure.floor) for _, figure in copies]
    if worst_status(statuses) != "ok":
        text = "; ".join(
            f"{figure.name} ({name}): {figure.value:.3g} GB/s, the floor of this board is {figure.floor:.3g}"
            for (name, figure), status in zip(copies, statuses, strict=True)
            if status != "ok"
        )
        return CheckResult(worst_status(statuses), text, figures, evidence, rule["remedy"])
    staged = sum(not pair["direct"] for pair in pairs.values())
    way = f"{staged} of {len(pairs)} through the host" if staged else "all directly"
    text = f"{len(pairs)} pairs of GPUs copy, {way}; the slowest, {slowest}, {copy.value:.3g} GB/s"
    return CheckResult("ok", text, figures, evidence)


def _slowest(what: str, speeds: Mapping[str, float], bound: tuple[float | None, str | None]) -> tuple[str, Figure]:
    """Return the slowest pair and its figure, from bytes/s by pair; `bound` is the floor in GB/s and its source."""
    name = min(speeds, key=lambda one: speeds[one])
    return name, Figure(f"slowest {what}", speeds[name] / 1e9, "GB/s", floor=bound[0], source=bound[1])


def peers(context: CheckContext) -> CheckResult:
    gpus = context.gpus
    if len(gpus) < 2 and not context.faults:
        return FEWER

    def both_ways(one: str, two: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return _writes(one, two, context.faults), _writes(two, one, context.faults)

    found: dict[str, dict[str, Any]] = {}
    for (one, two), (there, back) in _of_pairs(gpus, both_ways).items():
        found |= {f"{one} -> {two}": there, f"{two} -> {one}": back}
    # Without GPUs an injected fault is proven on the host's own memory.
    return evaluate_peers(found or {"cpu -> cpu": _writes("cpu", "cpu", context.faults)})


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

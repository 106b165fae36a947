"""collectives.gloo and nccl: collectives between processes of this host, compared exactly; gloo on CPUs, NCCL (RCCL on AMD cards) on GPUs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from verify.host.views import torch_view
from verify.inputs import corrupt, count_differences, rank_values
from verify.operators.speed import SLOWED, board_floor, status_of
from verify.records import CheckContext, CheckResult, Figure
from verify.runner.child_processes import Task, run_all
from verify.timing import bus_bytes, median_s, reduce_sum

LENGTH = 100_003
"""Numbers per process; not a power of two, so that pieces differ in size."""
LOOPBACK = "lo"
LARGE_BYTES = 1 << 30
"""Size of the timed array: large enough that links dominate, not kernel launches."""
RENDEZVOUS_S, DEADLINE_S = 45.0, 75.0
"""Eight cards that are used for the first time since boot need tens of seconds to start NCCL."""
WARM_UP, RUNS = 3, 9
"""Of the timed reduction. Every process takes part equally often, so no time budget can end it."""


def gloo(context: CheckContext) -> CheckResult:
    if not dist.is_available() or not dist.is_gloo_available():
        return CheckResult("skip", "this torch is built without gloo")
    answers = run_collectives(["cpu"] * 2, backend="gloo", faults=context.faults)
    remedy = f"check that the loopback interface is up: ip address show {LOOPBACK}; a firewall must allow it"
    return evaluate(answers, {"backend": "gloo", "interface": LOOPBACK}, remedy)


def nccl(context: CheckContext) -> CheckResult:
    if len(context.gpus) < 2:
        if not context.faults:
            return CheckResult("skip", "there are fewer than two GPUs")
        # Without GPUs an injected fault is proven on two CPU processes.
        answers = run_collectives(["cpu", "cpu"], backend="gloo", faults=context.faults, large_bytes=1 << 20)
        return evaluate_speed(answers, ("cpu", "cpu"), 1 << 20, context.faults)
    answers = run_collectives(context.gpus, backend="nccl", faults=context.faults, large_bytes=LARGE_BYTES)
    names = tuple(gpu.name or "" for gpu in torch_view.gpus())
    return evaluate_speed(answers, names, LARGE_BYTES, context.faults)


def evaluate_speed(
    answers: Mapping[int, Mapping[str, Any]], cards: tuple[str, ...], large_bytes: int, faults: frozenset[str]
) -> CheckResult:
    """Evaluate results and speed of the processes. A bus bandwidth below the floor of the `cards` is a warning, far below it a failure."""
    remedy = "see NCCL's log: NCCL_DEBUG=INFO, then ./firstlight doctor on that output"
    outcome = evaluate(answers, {"backend": "nccl", "devices": list(cards)}, remedy)
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

    Returns:
        By rank: `wrong`, the number of wrong elements per collective, and `seconds` of the large all-reduce; or `problem` and
        `output` of a process that failed.
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


def evaluate(answers: Mapping[int, Mapping[str, Any]], evidence: Mapping[str, Any], remedy: str) -> CheckResult:
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
    counted = {
        name: count_differences(corrupt(one.cpu()) if spoiled else one.cpu(), two) for name, (one, two) in got.items()
    }
    seconds = None
    if large_bytes:
        large = torch.ones(large_bytes // 4, device=device)
        seconds = median_s(lambda: reduce_sum(large), RUNS, WARM_UP)
    dist.destroy_process_group()
    return {"wrong": counted, "seconds": seconds}

"""Collectives between processes of one host, compared exactly: gloo on CPUs, NCCL on GPUs."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from verify.inputs import corrupt, count_differences, rank_values
from verify.records import CheckResult, Figure
from verify.runner.child_processes import Task, run_all
from verify.timing import median_s, reduce_sum

LENGTH = 100_003
"""Numbers per process; not a power of two, so that pieces differ in size."""
LOOPBACK = "lo"
RENDEZVOUS_S, DEADLINE_S = 45.0, 75.0
"""Eight cards that are used for the first time since boot need tens of seconds to start NCCL."""
WARM_UP, RUNS = 3, 9
"""Of the timed reduction. Every process takes part equally often, so no time budget can end it."""


def run_collectives(
    devices: Sequence[str], *, backend: str, faults: frozenset[str], interface: str = LOOPBACK, large_bytes: int = 0
) -> dict[int, dict[str, Any]]:
    """Run the collectives with one process per device.

    Args:
        devices: Devices, one per process.
        backend: `gloo` or `nccl`.
        faults: Injected faults.
        interface: Network interface to use.
        large_bytes: Size of a timed all-reduce; 0 for none.

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
            interface=interface,
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
    """Return whether every process finished with exact numbers.

    Args:
        answers: Result of each process.
        evidence: Evidence of the check.
        remedy: Remedy if the processes could not connect.
    """
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
    interface: str,
    large_bytes: int,
    spoiled: bool,
) -> dict[str, Any]:
    """Run one process, and compare what it received with what all processes sent."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
    world, device = len(devices), devices[rank]
    if device != "cpu":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend,
        init_method=f"file://{store_path}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=RENDEZVOUS_S),
    )
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

"""Processes of one host that exchange numbers: each collective exact to the last one, by gloo on CPUs and by NCCL on GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from verify.child_processes import Task, run_all
from verify.inputs import corrupt, count_differences, rank_values
from verify.records import CheckResult, Figure
from verify.timing import median_s, reduce_sum

LENGTH = 100_003
"""Numbers of each process: no power of two, so that pieces are of unequal size."""
LOOPBACK = "lo"
RENDEZVOUS_S, DEADLINE_S = 45.0, 75.0
"""Eight cards that nobody has used since boot take tens of seconds to be ready for NCCL."""
WARM_UP, RUNS = 3, 9
"""Of the timed reduction; every process has to take part as often as the others, so no budget of time ends it."""


def run_collectives(
    devices: Sequence[str], *, backend: str, faults: frozenset[str], interface: str = LOOPBACK, large_bytes: int = 0
) -> dict[int, dict[str, Any]]:
    """A process for each device, all at once; by its number what it found, or its `problem` and `output`.

    Each tells how many numbers of each collective were `wrong`, and the `seconds` of one all-reduce of `large_bytes`.
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
    """Whether every process came through, and every number of it was right; `remedy` is for processes that did not meet."""
    evidence = {**evidence, "processes": dict(answers)}
    broken = [f"process {rank}: {answer['problem']}" for rank, answer in answers.items() if "problem" in answer]
    if broken:
        return CheckResult("fail", f"they could not exchange: {'; '.join(broken)}", (), evidence, remedy)
    sums = {name: sum(answer["wrong"][name] for answer in answers.values()) for name in answers[0]["wrong"]}
    figures = tuple(Figure(f"{name}, wrong numbers", count, "count", ceiling=0) for name, count in sums.items())
    bad = [f"{name} gave {count} wrong numbers" for name, count in sums.items() if count]
    if bad:
        again = "install the environment anew: ./firstlight provision"
        return CheckResult("fail", "; ".join(bad), figures, evidence, again)
    text = f"{', '.join(sums)} of {len(answers)} processes are exact to the last of {LENGTH} numbers"
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
    """One process's part: what it got, held against what all of them put in."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
    import torch
    import torch.distributed as dist

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
        # gloo learnt it after torch 2.7, and says so before it sends anything; vLLM asks gloo for none.
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

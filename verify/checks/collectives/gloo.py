"""collectives.gloo: two processes of this host exchange numbers by gloo, which is how vLLM's processes meet on CPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from verify.inputs import spoil, whole, wrong
from verify.isolate import Task, run_all
from verify.records import Check, Context, Figure, Outcome

WORLD = 2
LENGTH = 100_003
"""Numbers of each process: no power of two, so that pieces are of unequal size."""
INTERFACE = "lo"
MEETING_S, DEADLINE_S = 20.0, 45.0


def _run(context: Context) -> Outcome:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return Outcome("skip", "this torch is built without gloo")
    with TemporaryDirectory() as folder:
        meeting = Path(folder) / "store"
        tasks = [Task(rank, partial(_exchange, rank, meeting, context.faults), DEADLINE_S) for rank in range(WORLD)]
        endings = dict(run_all(tasks, limit=WORLD))
    answers = {
        rank: ending.value if ending.problem is None else {"problem": ending.problem, "output": ending.output}
        for rank, ending in sorted(endings.items())
    }
    return judge(answers)


def judge(answers: Mapping[int, Mapping[str, Any]]) -> Outcome:
    """`answers` hold, by the number of the process, how many numbers of each collective were wrong, or its `problem`."""
    evidence = {"backend": "gloo", "interface": INTERFACE, "processes": dict(answers)}
    remedy = f"is the loopback up? ip address show {INTERFACE}; a firewall must let it pass"
    broken = [f"process {rank}: {answer['problem']}" for rank, answer in answers.items() if "problem" in answer]
    if broken:
        return Outcome("fail", f"they could not exchange: {'; '.join(broken)}", (), evidence, remedy)
    wrong = {name: sum(answer["wrong"][name] for answer in answers.values()) for name in answers[0]["wrong"]}
    figures = tuple(Figure(f"{name}, wrong numbers", count, "count", ceiling=0) for name, count in wrong.items())
    bad = [f"{name} gave {count} wrong numbers" for name, count in wrong.items() if count]
    if bad:
        return Outcome(
            "fail", "; ".join(bad), figures, evidence, "install the environment anew: ./firstlight provision"
        )
    text = f"{', '.join(wrong)} of {WORLD} processes are exact to the last of {LENGTH} numbers"
    return Outcome("ok", text, figures, evidence)


def _exchange(rank: int, meeting: Path, faults: frozenset[str]) -> dict[str, Any]:
    """One process's part: what it got, held against what all of them put in."""
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=MEETING_S),
    )
    given = [whole(LENGTH, number) for number in range(WORLD)]
    total = torch.stack(given).sum(dim=0)

    reduced = given[rank].clone()
    dist.all_reduce(reduced)
    gathered = [torch.zeros(LENGTH) for _ in range(WORLD)]
    dist.all_gather(gathered, given[rank])
    piece = torch.zeros(LENGTH)
    parts = [given[rank] * (place + 1) for place in range(WORLD)]
    dist.reduce_scatter(piece, parts)
    dist.destroy_process_group()

    got = {
        "all-reduce": (reduced, total),
        "all-gather": (torch.stack(gathered), torch.stack(given)),
        "reduce-scatter": (piece, total * (rank + 1)),
    }
    return {
        "wrong": {name: wrong(spoil(one) if "wrong-result" in faults else one, two) for name, (one, two) in got.items()}
    }


CHECK = Check(
    id="collectives.gloo",
    proves="Two processes of this host reduce, gather and scatter numbers by gloo, exact to the last one.",
    run=_run,
    level="standard",
    needs=("torch",),
    faults=("wrong-result",),
)

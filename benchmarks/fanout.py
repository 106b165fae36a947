"""Dispatch of the fan-out: tasks per second, how long tasks wait for their slot and in the queue, retries, priorities.

    python -m benchmarks.fanout [--tasks 2000] [--limit 32] [--task-ms 10]

Tasks sleep, as commands on hosts do, so the figures are of the fan-out itself. One in fifty loses its connection at the first attempt, and
the last tenth has a higher priority. Aim on 2 cores: a free slot waits less than 20 ms for its task in 99 of 100 cases, more than 50 short tasks
a second, and 99 of 100 tasks of the higher priority leave the queue before half of the others.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.machine import header, publish
from provision.core.errors import TransportError
from provision.core.quantile import quantile
from provision.fleet.ssh.dispatch import FanOut, Task, fan_out

AIM_WAIT_P99_MS = 20.0
AIM_TASKS_PER_S = 50.0
FLAKY_EVERY = 50
URGENT_SHARE = 0.1


def make_task(number: int, tasks: int, seconds: float) -> Task[None]:
    """A task that sleeps; the last ones are urgent, and some fail once, as a broken connection does."""
    urgent = number >= tasks * (1 - URGENT_SHARE)
    return Task(f"host{number}", _call(seconds, fails=number % FLAKY_EVERY == 0), priority=int(urgent))


def _call(seconds: float, *, fails: bool) -> Callable[[], None]:
    left = [TransportError("the connection broke")] if fails else []

    def call() -> None:
        time.sleep(seconds)
        if left:
            raise left.pop()

    return call


def queued_ms(done: FanOut[None], tasks: list[Task[None]], priority: int) -> dict[str, float]:
    """The time in the queue of first attempts of a priority."""
    found = [done.outcomes[task.host] for task in tasks if task.priority == priority]
    waits = sorted(outcome.queued_s for outcome in found if outcome.tries == 1)
    return {"p50_ms": round(quantile(waits, 0.5) * 1000, 3), "p99_ms": round(quantile(waits, 0.99) * 1000, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--task-ms", type=float, default=10.0)
    given = parser.parse_args()
    result = header("fanout")
    tasks = [make_task(number, given.tasks, given.task_ms / 1000) for number in range(given.tasks)]
    done = fan_out(tasks, limit=given.limit)
    stats = done.stats
    result |= {"limit": given.limit, "task_ms": given.task_ms, "failed": len(done.errors)}
    result |= {name: round(value, 3) for name, value in asdict(stats).items()}
    urgent, others = queued_ms(done, tasks, 1), queued_ms(done, tasks, 0)
    result["queued"] = {"urgent": urgent, "others": others}
    met = (
        stats.wait_p99_ms < AIM_WAIT_P99_MS
        and stats.tasks_per_s > AIM_TASKS_PER_S
        and urgent["p99_ms"] < others["p50_ms"]
        and not done.errors
    )
    result["aim"] = {"wait_p99_ms": AIM_WAIT_P99_MS, "tasks_per_s": AIM_TASKS_PER_S, "urgent_first": True, "met": met}
    publish(result, "fanout")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

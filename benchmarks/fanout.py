"""Dispatch of the fan-out: the time that tasks wait for a free slot, and the number of tasks per second.

    python -m benchmarks.fanout [--tasks 2000] [--limit 32] [--task-ms 10]

Tasks sleep, as commands on hosts do, so the figures are of the fan-out itself. Aim on 2 cores: waits below
20 ms in 99 of 100 cases, more than 50 short tasks a second.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict

from benchmarks.machine import header, publish
from provision.fleet.ssh.dispatch import Task, fan_out

AIM_WAIT_P99_MS = 20.0
AIM_TASKS_PER_S = 50.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--task-ms", type=float, default=10.0)
    given = parser.parse_args()
    result = header("fanout")
    tasks = [Task(f"host{number}", lambda: time.sleep(given.task_ms / 1000)) for number in range(given.tasks)]
    stats = fan_out(tasks, limit=given.limit).stats
    result |= {"limit": given.limit, "task_ms": given.task_ms}
    result |= {name: round(value, 3) for name, value in asdict(stats).items()}
    met = stats.wait_p99_ms < AIM_WAIT_P99_MS and stats.tasks_per_s > AIM_TASKS_PER_S
    result["aim"] = {"wait_p99_ms": AIM_WAIT_P99_MS, "tasks_per_s": AIM_TASKS_PER_S, "met": met}
    publish(result, "fanout")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

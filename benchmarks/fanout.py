"""The time of tasks in the queue of the fan-out, beside a plain pool of threads; the hit rate of the wheelhouse.

    .venv/bin/python -m benchmarks.fanout [--seconds 200]

Once a second a fan-out does 50 tasks of 10 ms, 32 at once, as a run does short commands on 50 hosts: 10,000 tasks in 200 s. Half a second later a
`ThreadPoolExecutor` of 32 threads, which stay between the seconds, does the same. The time in the queue lasts from the call to the task's start.

Look-ups are those of a controller that stages twelve releases, each eight times (as hosts are added), for three kinds of hosts: 60 files for all
of them and 90 for each kind, of which every fifth changes with a release. The limit of the wheelhouse is the size of two releases; after each
staging the least recently used files are pruned.

Aim: p99 in the queue at most 20 ms, mean at most 15 ms, hit rate at least 92 %. As root it runs with a real-time priority (`policy` of the result is 1), so
that it does not wait for other programs; the result is always kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import header, parser, publish, quantile
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT, Task, fan_out
from provision.phases.stage.wheelhouse import Store

HOSTS, TASK_S = 50, 0.01
RELEASES, STAGINGS, KINDS, SHARED, OWN, CHANGES_EVERY = 12, 8, 3, 60, 90, 5
MOST_P99_MS, MOST_MEAN_MS, LEAST_HIT_RATE = 20.0, 15.0, 0.92


def task_from(called: float) -> Callable[[], float]:
    """Return a task that returns the seconds from that time to its start."""

    def work() -> float:
        began = time.monotonic()
        time.sleep(TASK_S)
        return began - called

    return work


def fanned_out() -> list[float]:
    """Return the seconds that each task of a fan-out was in the queue. Raises AssertionError if one fails."""
    work = task_from(time.monotonic())
    done = fan_out([Task(f"host{number}", work) for number in range(HOSTS)])
    assert not done.errors
    return [*done.values.values()]


def pooled(pool: ThreadPoolExecutor) -> list[float]:
    """Return the same of a plain pool."""
    work = task_from(time.monotonic())
    return [future.result() for future in [pool.submit(work) for _ in range(HOSTS)]]


def queue(seconds: int) -> dict[str, Any]:
    """Return the times in the queue of both, in turn, and their ratio."""
    ours: list[float] = []
    plain: list[float] = []
    began = time.monotonic()
    with ThreadPoolExecutor(DEFAULT_LIMIT) as pool:
        for turn in range(seconds):
            time.sleep(max(0.0, began + turn - time.monotonic()))
            ours += fanned_out()
            time.sleep(max(0.0, began + turn + 0.5 - time.monotonic()))
            plain += pooled(pool)
    lasted = time.monotonic() - began
    found: dict[str, Any] = {name: summary(times) for name, times in (("fan_out", ours), ("plain_pool", plain))}
    ratio = {name: round(found["fan_out"][name] / found["plain_pool"][name], 2) for name in ("mean_ms", "p99_ms")}
    return found | {"ratio": ratio, "tasks_per_s": round(len(ours) / lasted, 1)}


def summary(times: list[float]) -> dict[str, float]:
    """Return the number of tasks, and mean and percentiles in milliseconds."""
    ranked = sorted(times)
    figures = {"mean": statistics.fmean(ranked), "p50": quantile(ranked, 0.5), "p99": quantile(ranked, 0.99)}
    return {"tasks": len(ranked), **{f"{name}_ms": round(value * 1000, 2) for name, value in figures.items()}}


def files(release: int, kind: int) -> list[str]:
    """Return the names of the files of a release for a kind of hosts; each changes with every fifth release, not all with the same."""
    names = [f"shared{number}" for number in range(SHARED)] + [f"own{kind}_{number}" for number in range(OWN)]
    return [f"{name}-{(release + place) // CHANGES_EVERY}.whl" for place, name in enumerate(names)]


def look_ups(root: Path) -> dict[str, float]:
    """Return the number of look-ups in a wheelhouse, how many found the file, and percentiles of their milliseconds."""
    one_release = {name for kind in range(KINDS) for name in files(0, kind)}
    store = Store(root, limit_bytes=0)
    sample = put(store, "sample")
    size = sum(entry.stat().st_size for entry in sample.parent.iterdir())
    store.limit_bytes = 2 * size * len(one_release)
    seconds: list[float] = []
    hits = 0
    for release in range(RELEASES):
        for _ in range(STAGINGS):
            for kind in range(KINDS):
                for name in files(release, kind):
                    sha256, began = hashlib.sha256(name.encode()).hexdigest(), time.perf_counter()
                    found = store.find(sha256, name)
                    seconds.append(time.perf_counter() - began)
                    hits += found is not None
                    if found is None:
                        put(store, name)
            store.prune()
    seconds.sort()
    times = {f"lookup_p{percent}_ms": round(quantile(seconds, percent / 100) * 1000, 4) for percent in (50, 99)}
    return {"hit_rate": round(hits / len(seconds), 4), "lookups": len(seconds), "hits": hits, **times}


def put(store: Store, name: str) -> Path:
    """Store a file whose content is its name."""
    path = store.path(hashlib.sha256(name.encode()).hexdigest(), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding="ascii")
    store.stamp(path)
    return path


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seconds", type=int, default=200)
    seconds = options.parse_args().seconds
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    result = header("fanout") | {
        "policy": os.sched_getscheduler(0),
        "limit": DEFAULT_LIMIT,
        "task_ms": TASK_S * 1000,
        "hosts": HOSTS,
    }
    result |= {"queue": queue(seconds)}
    with tempfile.TemporaryDirectory() as folder:
        result |= {"look_ups": look_ups(Path(folder))}
    ours = result["queue"]["fan_out"]
    met = (
        ours["p99_ms"] <= MOST_P99_MS
        and ours["mean_ms"] <= MOST_MEAN_MS
        and result["look_ups"]["hit_rate"] >= LEAST_HIT_RATE
    )
    aim = {"p99_ms": MOST_P99_MS, "mean_ms": MOST_MEAN_MS, "hit_rate": LEAST_HIT_RATE, "met": met}
    publish(result | {"aim": aim}, "fanout", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

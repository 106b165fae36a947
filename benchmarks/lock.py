"""The time to lock the packages of a class of hosts, solved for the first time and from the cache.

    .venv/bin/python -m benchmarks.lock [--turns 3]

Cold: the user's indexes are queried, uv solves with an empty cache, and each distribution's wheel is chosen; candidates that cannot be locked
are tried before the one that can, as in `stage`. Only metadata is fetched, but uv unpacks wheels of a local folder. For a CPU host and
for eight H100. Cached: what `stage` does with a cached lock, including the check that every wheel exists; for the CPU host, whose wheels (600 MB)
are fetched once into the user's own wheelhouse. Each figure is from a new process that has planned already, because `stage` follows `plan`.
Aims: 10 s cold, 0.5 s cached.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, header, publish, say
from benchmarks.timing import figures, timed
from provision.catalog.index.settings import read_settings
from provision.core.errors import StageError
from provision.core.models.settings import Settings
from provision.core.models.stack import Candidate, Stack
from provision.phases.plan import plan
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage.candidate_lock import StageJob, lock_best_candidate
from provision.phases.stage.extension_package import NoPackager
from provision.phases.stage.host_uv import LOCK
from provision.phases.stage.locked_wheel import locked_hashes
from provision.phases.stage.staging import accepted
from provision.phases.stage.wheelhouse import Store
from provision.pipeline.runner import cache_folder

CPU, CARDS = "cpu", "h100x8"
CLASSES = {
    CPU: "os=debian-12 glibc=2.36 arch=x86_64 cpu=avx512 python=3.11",
    CARDS: "gpu=H100x8 driver=580.65.06 os=ubuntu-24.04 glibc=2.39 arch=x86_64 python=3.12",
}
COLD_AIM_S, CACHED_AIM_S = 10.0, 0.5
PAUSE_S = 60
"""Pause before each cold turn: uv unpacks wheels of a local folder (torch: 0.7 GB), and a disk with a limited fast phase slows down the next turn."""


def candidates(name: str) -> list[tuple[Candidate, Stack]]:
    """Return the candidates that `plan` gives for a class, the best first."""
    facts = parse_what_if(CLASSES[name])
    [resolution] = plan({facts.host: facts}, {facts.host: Settings()}).classes
    return accepted(resolution)


def cold(name: str) -> dict[str, Any]:
    """Return the locked candidate, the number of refusals before it, the number of distributions, and the seconds."""
    planned = candidates(name)
    started = time.perf_counter()
    from provision.catalog.index.sources import find_sources  # noqa: PLC0415 - as `stage` imports them: only here
    from provision.phases.stage.local_wheels import local_sources  # noqa: PLC0415
    from provision.phases.stage.stack_lock import lock_stack  # noqa: PLC0415 - as `stage` imports them: only here

    sources = find_sources(read_settings())
    with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
        for refused, (candidate, stack) in enumerate(planned):
            try:
                locked = lock_stack(stack, local_sources(stack), sources, Store(Path(folder))).wheels
            except StageError:
                continue
            seconds = time.perf_counter() - started
            return {"s": seconds, "candidate": candidate.id, "refused_before": refused, "distributions": len(locked)}
    sys.exit(f"error: no candidate of {name} can be locked here")


def cached() -> dict[str, Any]:
    """Return the cached lock of the CPU class, or with `from_cache` false the one that was just solved, and its seconds."""
    planned = candidates(CPU)
    started = time.perf_counter()
    job = StageJob(
        read_settings(),
        Store(cache_folder(os.environ)),
        None,
        refresh=False,
        packager=NoPackager(),
        package_required=False,
    )
    chosen = lock_best_candidate(planned, job)
    return {"s": time.perf_counter() - started, "from_cache": chosen.from_cache}


def process(what: str, uv_cache: str | None = None) -> dict[str, Any]:
    """Return the measurements of a new process."""
    environment = {"UV_CACHE_DIR": uv_cache} if uv_cache else {}
    done = timed([sys.executable, "-m", "benchmarks.lock", "--once", what], cwd=ROOT, environment=environment)
    if done.code:
        sys.exit(f"error: {what} ended with {done.code}\n{done.tail()}")
    document: dict[str, Any] = json.loads(done.out)
    return document


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--once", choices=("cached", *CLASSES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        json.dump(cached() if options.once == "cached" else cold(options.once), sys.stdout)
        return 0
    result = header("lock", ("pydantic",))
    result["versions"]["uv"] = locked_hashes(LOCK, "uv")[0]
    for name, described in CLASSES.items():
        runs = []
        for _ in range(options.turns):
            time.sleep(PAUSE_S)
            with tempfile.TemporaryDirectory(prefix="firstlight-") as folder:
                runs.append(process(name, folder))
            say(f"{name}, cold: {runs[-1]['s']:.2f} s")
        solved = {key: value for key, value in runs[-1].items() if key != "s"}
        result[name] = {"host": described, **solved, "cold": figures([run["s"] for run in runs])}
    process("cached")  # fetches missing files and fills the cache
    runs = [process("cached") for _ in range(options.turns)]
    assert all(run["from_cache"] for run in runs)
    result[CPU]["cached"] = figures([run["s"] for run in runs])
    slowest, remembered = max(result[name]["cold"]["median_s"] for name in CLASSES), result[CPU]["cached"]["median_s"]
    met = slowest <= COLD_AIM_S and remembered <= CACHED_AIM_S
    result["aim"] = {"cold_median_s": COLD_AIM_S, "cached_median_s": CACHED_AIM_S, "met": met}
    publish(result, "lock")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""The time to plan 1,000 recorded hosts, and to load the catalog. Aim: at most 2 s.

    .venv/bin/python -m benchmarks.plan [HOSTS]

The hosts are those of tests/cases/hosts, each repeated with other drivers, Pythons, sizes and users, which gives several
hundred classes. Each figure is the median of RUNS new processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING

from benchmarks.machine import ROOT, header, publish

if TYPE_CHECKING:
    from provision.core.models.facts import HostFacts
    from provision.core.models.settings import Settings

RUNS = 5
AIM_S = 2.0


def once(count: int) -> dict[str, float]:
    """Measure once, in this process, which must be new."""
    started = time.perf_counter()
    from provision.catalog import catalog  # noqa: PLC0415 - importing is measured
    from provision.phases.plan import plan  # noqa: PLC0415 - importing is measured

    imported = time.perf_counter()
    catalog().tables()
    loaded = time.perf_counter()
    facts, settings = hosts(count)
    before, cpu_before = time.perf_counter(), time.process_time()
    made = plan(facts, settings)
    after, cpu_after = time.perf_counter(), time.process_time()
    return {
        "import_s": imported - started,
        "catalog_load_s": loaded - imported,
        "plan_s": after - before,
        "plan_cpu_s": cpu_after - cpu_before,
        "classes": len(made.classes),
        "refused": sum(resolution.stack is None for resolution in made.classes),
    }


def hosts(count: int) -> tuple[dict[str, HostFacts], dict[str, Settings]]:
    """Return that many hosts by name, with their settings."""
    from tests.plan.cases import CASES  # noqa: PLC0415 - not a part of what is measured

    drivers = ("535.183.01", "550.54.15", "560.35.03", "570.133.20", "580.65.06", "580.173.02", "595.71.05")
    gib = 1024**3
    facts, settings = {}, {}
    for number, case in enumerate(islice(cycle(CASES), count)):
        name, turn = f"host-{number:04}", number // len(CASES)
        seen = case.facts
        update: dict[str, object] = {
            "host": name,
            "disks": tuple(disk.model_copy(update={"free": (40 + turn) * gib}) for disk in seen.disks),
        }
        if seen.nvidia and seen.nvidia.driver_version and turn:
            update["nvidia"] = seen.nvidia.model_copy(update={"driver_version": drivers[turn % len(drivers)]})
        elif turn and seen.pythons:
            update["pythons"] = tuple(
                python.model_copy(update={"version": f"3.{9 + turn % 5}.{turn}"}) for python in seen.pythons
            )
        facts[name] = seen.model_copy(update=update)
        settings[name] = case.settings
    return facts, settings


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    if os.environ.get("FIRSTLIGHT_BENCHMARK_ONCE"):
        json.dump(once(count), sys.stdout)
        return 0
    result = header("plan", ("pydantic",))
    command = [sys.executable, "-m", "benchmarks.plan", str(count)]
    environment = {**os.environ, "FIRSTLIGHT_BENCHMARK_ONCE": "1"}
    runs = [
        json.loads(
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        )
        for _ in range(RUNS)
    ]
    medians = {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
    result |= {"hosts": count, "runs": RUNS, **medians}
    result["aim"] = {"plan_s": AIM_S, "met": medians["plan_s"] < AIM_S}
    publish(result, "plan")
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

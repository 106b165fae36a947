"""The time to plan 1,000 recorded hosts, and to load the catalog. Aim: at most 2 s.

    .venv/bin/python -m benchmarks.plan [--hosts 1000]

The hosts are those of tests/cases/hosts, each repeated with other drivers, Pythons and free space, which gives several hundred classes. Each
figure is the median of five new processes; the reading of the cases is not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING

from benchmarks.harness import GIB, header, parser, publish, timed

if TYPE_CHECKING:
    from provision.core.models.facts import HostFacts
    from provision.core.models.settings import Settings

RUNS = 5
AIM_S = 2.0
DRIVERS = ("535.183.01", "550.54.15", "560.35.03", "570.133.20", "580.65.06", "580.173.02", "595.71.05")


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
    return {
        "plan_s": time.perf_counter() - before,
        "plan_cpu_s": time.process_time() - cpu_before,
        "import_s": imported - started,
        "catalog_load_s": loaded - imported,
        "classes": len(made.classes),
        "refused": sum(resolution.stack is None for resolution in made.classes),
    }


def hosts(count: int) -> tuple[dict[str, HostFacts], dict[str, Settings]]:
    """Return that many hosts by name, with their settings."""
    from tests.plan.cases import CASES  # noqa: PLC0415 - not a part of what is measured

    facts, settings = {}, {}
    for number, case in enumerate(islice(cycle(CASES), count)):
        name, turn = f"host-{number:04}", number // len(CASES)
        free = (40 + turn) * GIB
        disks = tuple(disk.model_copy(update={"free": free}) for disk in case.facts.disks)
        update: dict[str, object] = {"host": name, "disks": disks}
        if case.facts.nvidia and case.facts.nvidia.driver_version and turn:
            update["nvidia"] = case.facts.nvidia.model_copy(update={"driver_version": DRIVERS[turn % len(DRIVERS)]})
        elif turn:
            version = f"3.{9 + turn % 5}.{turn}"
            update["pythons"] = tuple(one.model_copy(update={"version": version}) for one in case.facts.pythons)
        facts[name], settings[name] = case.facts.model_copy(update=update), case.settings
    return facts, settings


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--hosts", type=int, default=1000)
    options.add_argument("--once", action="store_true", help="measure in this process, and print the figures")
    given = options.parse_args()
    if given.once:
        print(json.dumps(once(given.hosts)))
        return 0
    result = header("plan", ("pydantic",))
    command = [sys.executable, "-m", "benchmarks.plan", "--once", "--hosts", str(given.hosts)]
    runs = [json.loads(timed(command).out) for _ in range(RUNS)]
    medians = {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
    met = medians["plan_s"] <= AIM_S
    publish(result | {"hosts": given.hosts, "runs": RUNS, **medians, "aim": {"plan_s": AIM_S, "met": met}}, "plan")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

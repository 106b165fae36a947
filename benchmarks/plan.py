"""The time to plan 1,000 recorded hosts of 10 classes, and to load the catalog. Aim: at most 10 s on two cores.

    .venv/bin/python -m benchmarks.plan [--hosts 1000]

The hosts are ten of tests/cases/hosts, repeated. Each figure is the median of five new processes; the reading of the cases is not counted.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING

from benchmarks.harness import header, parser, publish, timed

if TYPE_CHECKING:
    from provision.core.models.facts import HostFacts
    from provision.core.models.settings import Settings

RUNS = 5
AIM_S = 10.0
CLASSES = 10


def once(count: int) -> dict[str, float]:
    """Measure once, in this process, which must be new."""
    started = time.perf_counter()
    from provision.catalog import catalog  # noqa: PLC0415 - importing is measured
    from provision.phases.plan import choose_stacks  # noqa: PLC0415 - importing is measured

    imported = time.perf_counter()
    for name in vars(type(catalog())):
        getattr(catalog(), name)  # loads the table of that name
    loaded = time.perf_counter()
    facts, settings = hosts(count)
    before, cpu_before = time.perf_counter(), time.process_time()
    made = choose_stacks(facts, settings)
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

    chosen = CASES[:: len(CASES) // CLASSES][:CLASSES]
    repeated = {f"host-{number:04}": case for number, case in enumerate(islice(cycle(chosen), count))}
    facts = {name: case.facts.model_copy(update={"host": name}) for name, case in repeated.items()}
    return facts, {name: case.settings for name, case in repeated.items()}


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

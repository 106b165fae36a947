"""The time of the checks at each level, and the overhead of the harness.

    .venv/bin/python -m benchmarks.verify_levels [--python PREFIX/current/bin/python] [--runs 5]

`python verify.pyz --level LEVEL` as whole processes, in turn with `import torch` in the same Python. Aim: `quick` within 5 s beyond importing
torch; 0.3 s per check for the harness: a process of its own, its answer, its end. Without --python it is the environment that the tests make.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import ROOT, header, publish
from benchmarks.timing import figures, timed
from provision.phases.verify.tool import build_zipapp

QUICK_AIM_S = 5.0
HARNESS_AIM_S = 0.3
IMPORT = "import torch"
EMPTY_TASKS = 40
HARNESS = f"""
import json, sys
sys.path.insert(0, sys.argv[1])
import torch
from verify.runner.child_processes import Task, run_all
tasks = [Task(str(number), lambda: None, 30.0) for number in range({EMPTY_TASKS})]
print(json.dumps([ending.seconds for _, ending in run_all(tasks, limit=1)]))
"""
"""The cost of a check that does nothing, in a parent that has loaded torch like the checks' parent."""
GOOD = (0, 1, 2)
"""Exit codes of a complete run, whatever its result."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="of an environment that holds torch")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    result = header("verify-levels")
    python = options.python or _test_environment()
    with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        tool = build_zipapp(Path(name) / "verify.pyz")
        commands = {
            "import_torch": [python, "-c", IMPORT],
            "quick": [python, tool, "--level", "quick", "--json"],
            "standard": [python, tool, "--level", "standard", "--json"],
        }
        samples: dict[str, list[float]] = {title: [] for title in commands}
        last: dict[str, str] = {}
        for number in range(options.runs + 1):
            for title, words in commands.items():
                done = timed(words, cwd=ROOT)
                if done.code not in GOOD:
                    sys.exit(f"error: {title} ended with {done.code}\n{done.tail()}")
                last[title] = done.out
                if number:  # the first turn fills the caches
                    samples[title].append(done.seconds)
        harness = timed([python, "-c", HARNESS, tool], cwd=ROOT)
        if harness.code:
            sys.exit(f"error: the harness alone ended with {harness.code}\n{harness.tail()}")
        result["zipapp_bytes"] = tool.stat().st_size
    result |= {"runs": options.runs, **{title: figures(seconds) for title, seconds in samples.items()}}
    result["checks"] = {title: _counted(last[title]) for title in ("quick", "standard")}
    beyond = round(result["quick"]["median_s"] - result["import_torch"]["median_s"], 3)
    each = round(statistics.median(json.loads(harness.out)), 4)
    met = beyond <= QUICK_AIM_S and each < HARNESS_AIM_S
    result |= {"quick_beyond_import_s": beyond, "harness_each_check_s": each}
    result["aim"] = {"quick_beyond_import_s": QUICK_AIM_S, "harness_each_check_s": HARNESS_AIM_S, "met": met}
    publish(result, "verify-levels")
    return 0 if met else 1


def _test_environment() -> Path:
    from tests.verify.torch_environment import torch_python  # noqa: PLC0415 - not needed with a Python of the user's

    return torch_python()


def _counted(document: str) -> dict[str, int]:
    """Return the number of checks with each status."""
    statuses = [check["status"] for check in json.loads(document)["checks"]]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


if __name__ == "__main__":
    sys.exit(main())

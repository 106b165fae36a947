"""The time of commands that need no host, as whole processes.

    .venv/bin/python -m benchmarks.startup [--runs 20]

`./firstlight --help` (the launcher included), a plan of a described host, and a plan of recorded facts. Aim: help within 0.3 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import ROOT, header, publish
from benchmarks.timing import figures, timed

HELP_AIM_S = 0.3
WHAT_IF = "gpu=H100x8 driver=570.133.20 os=ubuntu-22.04 arch=x86_64"


def recorded_facts(folder: Path) -> Path:
    """Return the facts of a host as `probe --json` prints them."""
    from tests.plan.cases import CASES  # noqa: PLC0415 - only a source of facts

    path = folder / "facts.json"
    path.write_text(CASES[0].facts.model_dump_json(), encoding="utf-8")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    result = header("startup", ("typer", "pydantic"))
    with tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        commands = {
            "help": ["--help"],
            "plan_what_if": ["plan", "--what-if", WHAT_IF],
            "plan_facts": ["plan", "--facts", str(recorded_facts(Path(name)))],
        }
        environment = {"FIRSTLIGHT_LOGS": str(Path(name) / "logs")}
        samples: dict[str, list[float]] = {title: [] for title in commands}
        for number in range(runs + 1):
            for title, words in commands.items():
                done = timed([ROOT / "firstlight", *words], cwd=ROOT, environment=environment)
                if done.code:
                    sys.exit(f"error: {' '.join(words)} ended with {done.code}\n{done.tail()}")
                if number:  # the first turn fills the caches
                    samples[title].append(done.seconds)
    result |= {"runs": runs, **{title: figures(seconds) for title, seconds in samples.items()}}
    met = result["help"]["median_s"] < HELP_AIM_S
    result["aim"] = {"help_median_s": HELP_AIM_S, "met": met}
    publish(result, "startup")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

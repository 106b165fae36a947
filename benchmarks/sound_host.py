"""Repeated checks on one healthy host: alarms, and seconds of each check.

    .venv/bin/python -m benchmarks.sound_host [--runs 50] [--under-load 10] [--full 3] [--result NAME]

Boots a test host, provisions it once, then runs the host's own tool while the service answers: RUNS times at level `standard`, the last
UNDER-LOAD of them during two computing processes for each core, and FULL times at level `full`. An alarm is a check with status warn, fail
or error. Aims: no alarm; a median of 15 s for `standard` and 90 s for `full` without load. Alarms count on a busy machine too, so the
result is always stored, with its load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import ROOT, header, publish, say
from benchmarks.timing import figures, timed
from provision.phases.verify.run_checks import tool_command
from tests.fleet.hosts import FleetHost, write_inventory
from tests.fleet.serving import PREFIX
from verify.records import Level

AIMS_S: dict[Level, float] = {"standard": 15.0, "full": 90.0}
ALARMS = ("warn", "fail", "error")
LIMIT_S = 900.0
NEVER_IDLE = "while True: pass"


@contextmanager
def load() -> Iterator[None]:
    """Run two computing processes for each core while the block runs."""
    burners = [subprocess.Popen([sys.executable, "-c", NEVER_IDLE]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


class Runs:
    """Runs of one level under one load: the seconds of each, and every alarm."""

    def __init__(self, host: FleetHost, level: Level) -> None:
        self._host, self._level = host, level
        self._seconds: list[float] = []
        self._by_check: dict[str, list[float]] = {}
        self._alarms: list[dict[str, Any]] = []

    def add(self, number: int) -> None:
        """Run all checks of the level once more."""
        output = self._host.sh(
            tool_command(PREFIX, "current", ["--level", self._level, "--json"]), check=False, timeout_s=LIMIT_S
        )
        document = json.loads(output)
        self._seconds.append(document["seconds"])
        for check in document["checks"]:
            if check["status"] != "skip":
                self._by_check.setdefault(check["id"], []).append(check["seconds"])
            if check["status"] in ALARMS:
                found = {"run": len(self._seconds)} | {key: check[key] for key in ("id", "status", "reason")}
                self._alarms.append(found)
                say(f"{self._level} {number}: {found}")
        say(f"{self._level} {number}: {document['seconds']:.1f} s")

    @property
    def count(self) -> int:
        """Return the number of runs so far."""
        return len(self._seconds)

    def entry(self) -> dict[str, Any]:
        """Return the figures, with the ten slowest checks."""
        medians = {name: round(statistics.median(taken), 2) for name, taken in self._by_check.items()}
        longest = dict(sorted(medians.items(), key=lambda item: -item[1])[:10])
        return {"runs": self.count, "alarms": self._alarms, **figures(self._seconds), "longest_checks": longest}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--under-load", type=int, default=10)
    parser.add_argument("--full", type=int, default=3)
    parser.add_argument("--result", default="sound-host", help="name of the file in benchmarks/results")
    options = parser.parse_args()
    result = header("sound-host")
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory(prefix="firstlight-") as name:
        [host] = fleet.boot(1)
        inventory = write_inventory(Path(name) / "inventory", [host])
        done = timed(
            [ROOT / "firstlight", "provision", "-i", inventory],
            cwd=ROOT,
            environment={"FIRSTLIGHT_LOGS": str(Path(name) / "logs"), "TERM": "dumb"},
        )
        if done.code:
            sys.exit(f"error: the host could not be provisioned\n{done.tail(6000)}")
        kinds = {
            "standard": Runs(host, "standard"),
            "standard_under_load": Runs(host, "standard"),
            "full": Runs(host, "full"),
        }
        for number in range(options.runs - options.under_load):
            kinds["standard"].add(number)
        with load():
            for number in range(options.under_load):
                kinds["standard_under_load"].add(number)
        for number in range(options.full):
            kinds["full"].add(number)
    entries = {name: runs.entry() for name, runs in kinds.items() if runs.count}
    quick_enough = all(entries[level]["median_s"] <= aim for level, aim in AIMS_S.items() if level in entries)
    silent = not any(entry["alarms"] for entry in entries.values())
    result |= {"levels": entries, "aim": {"alarms": 0, "median_s": AIMS_S, "met": silent and quick_enough}}
    publish(result, options.result, always=True)
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())

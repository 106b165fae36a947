"""One fault in the middle of a run, then one more `provision`: does the host end as if nothing had happened?

    .venv/bin/python -m benchmarks.chaos [--runs 100] [--seed 1] [--resume] [--only FAULT] [--state FOLDER] [--list]

Boots one test host with a disk of its own. For each run the seed draws a change (another setting, a rollback, a removed environment, a bare
host), a moment of its run (a phase, a background task, the switch of the release) and a fault (benchmarks/chaos_cases/faults.py). The run's
own events tell when the moment has come. When the fault is over and the run has ended, one more `provision` must be green, and the host must
be as one that had the same change without a fault: files, units, users, packages, processes, temporary files, keys and firewall rules; and
no process or temporary file may be left here.

Each row is kept as the run ends, in rows.jsonl of the state folder. `--resume` goes on there, and repeats the runs that
failed: each row names its commit; on a machine without that folder it goes on from the published table. The table with
all rows of the seed goes to benchmarks/results/chaos.json; nothing is timed, so it is always kept. The exit code is 1 if a run did not end as an undisturbed host.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.chaos_cases.draw import Trial, to_do
from benchmarks.chaos_cases.faults import FAULTS, NOT_MADE
from benchmarks.chaos_cases.state import State
from benchmarks.chaos_cases.subject import Subject
from benchmarks.chaos_cases.table import GOOD, NOT_COUNTED, keep, kept, made, restore, totals
from benchmarks.chaos_cases.trial import Bench, UndisturbedRunError
from benchmarks.fleet import hosts_to_boot
from benchmarks.harness import RESULTS, ROOT, header, parser, publish, say
from tests.fleet.commands import command
from tests.fleet.root import cache_folder

RUNS = 100


def commit() -> str:
    """Return the commit of the checkout, with `+` where tracked files differ from it."""
    return command("git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+").strip()


def perform(bench: Bench, trial: Trial, seed: int) -> dict[str, Any]:
    """Carry out a run and return its row. Whatever goes wrong with the bench itself is a row too."""
    say(f"{trial.number}: {trial.change}, {trial.moment} + {trial.delay_s} s: {trial.fault}")
    started, product = datetime.now(UTC), commit()
    try:
        row = bench.perform(trial)
    except (UndisturbedRunError, RuntimeError, OSError) as error:
        row = {"result": "error", "did": f"{type(error).__name__}: {error}"[:600], "left": [], "differences": []}
    if commit() != product:
        row |= {"result": "error", "did": f"the checkout was changed during the run, to {commit()}"}
    say(f"{trial.number}: {row['result']}; {row['did']}; {row['differences']}")
    return {
        "run": trial.number,
        "seed": seed,
        "commit": product,
        "at": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds()),
        "fault": trial.fault,
        "change": trial.change,
        "moment": trial.moment,
        "delay_s": trial.delay_s,
        **row,
    }


def work(trials: list[Trial], folder: Path, seed: int) -> None:
    """Carry out runs, and keep each row. A host that is not as it should be is replaced by a new one."""
    scratch, cache = folder / "tmp", folder / "cache"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    os.environ |= {"TMPDIR": str(scratch), "FIRSTLIGHT_CACHE": str(cache)}
    references: dict[str, State] = {}
    with hosts_to_boot() as fleet:
        fleet.network.open()
        bench: Bench | None = None
        for trial in trials:
            if bench is None:
                bench = Bench(Subject(fleet), folder, cache, scratch, references)
                say(f"{bench.subject.host.name}: runs without a fault")
                bench.provide()
            row = perform(bench, trial, seed)
            keep(folder / "rows.jsonl", json.loads(json.dumps(row).replace(str(folder), "STATE")))
            if row["result"] not in (GOOD, "differs", *NOT_COUNTED):
                bench.subject.remove()
                bench = None
            if row["result"] == "error":  # perhaps another product by now, which leaves other files on a host
                references.clear()


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--runs", type=int, default=RUNS)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--resume", action="store_true", help="keep the rows of this seed, and go on")
    options.add_argument("--only", choices=sorted(FAULTS), metavar="FAULT", help=f"one of: {', '.join(sorted(FAULTS))}")
    options.add_argument("--state", type=Path, default=cache_folder().with_name("firstlight-chaos"))
    options.add_argument("--list", action="store_true", help="print what would be done, and do nothing")
    given = options.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    path = given.state / "rows.jsonl"
    if given.resume and not path.exists():
        restore(path, RESULTS / "chaos.json")
    rows = kept(path, given.seed) if given.resume else []
    trials = to_do(given.seed, given.runs, made(rows), given.only)
    if given.list:
        for trial in trials:
            print(f"{trial.number:3} {trial.fault}: {trial.change}, {trial.moment} + {trial.delay_s} s")
        return 0
    if not given.resume:
        path.unlink(missing_ok=True)
    result = header("chaos", ["ansible-core"])
    try:
        work(trials, given.state, given.seed)
    finally:  # an interrupted benchmark has the rows that it has
        rows = kept(path, given.seed)
        counted = totals(rows)
        met = counted["runs"] == counted["as_undisturbed"] and counted["runs"] >= RUNS
        result |= {
            "seed": given.seed,
            **counted,
            "aim": {"runs": RUNS, "met": met},
            "not_on_test_hosts": NOT_MADE,
            "rows": rows,
        }
        if rows:
            publish(result, "chaos", always=True)
    return 0 if counted["runs"] == counted["as_undisturbed"] else 1


if __name__ == "__main__":
    sys.exit(main())

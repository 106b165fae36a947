"""Level burn-in: rounds of checks for hours, and one verdict over all rounds, also over those of an earlier call that was interrupted.

PREFIX/verify/burn-in.json holds the rounds that ended. The next call continues them if the environment, the checks and the GPUs are the
same and nothing failed; after a failure it begins anew, because something was repaired in between.
"""

import json
import os
import select
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from verify.files import read_json, write_atomically
from verify.host.devices import SURVEY_DEADLINE_S
from verify.host.views import torch_view
from verify.records import SEVERITY, CheckContext, CheckResult, Figure, Observation, as_record, combine, worst_status
from verify.runner.child_processes import run_one
from verify.runner.execution import FAILED, environment_name
from verify.serving.service import start_ticks
from verify.serving.service_control import holder
from verify.tables import table

STATE = "verify/burn-in.json"
RECORD = "frame.burn_in"
"""Id of the record that says how many rounds ended, and how much speeds differ between them."""

LEAST_ROUNDS = 2
"""However short the time is: further rounds are what this level is for."""

Document = Mapping[str, Any]
RunRound = Callable[[int, str], Document]
"""Runs a round; takes its number from 1, and what the progress file says before the running check."""


class RunningError(Exception):
    """Another process burns this host in."""


def burn_in(
    run_round: RunRound, context: CheckContext, ids: Sequence[str], hours: float, *, drain: bool = False
) -> dict[str, Any]:
    """Run rounds, at least two, until the time is over, the user interrupts or nobody hears, and return the document of all rounds.

    After `hours`, those of continued rounds included, no further round starts. Without an installation nothing is kept for a next call.
    With `drain`, which stopped the service, the remedy names the next call with `--drain` too.
    Raises RunningError where another process does it, and KeyboardInterrupt before a round has ended.
    """
    asked = {"environment": environment_name(context.prefix), "checks": [*ids], "gpus": _gpus()}
    file = context.prefix / STATE if context.prefix else None
    if file and (pid := holder(file)) not in (None, os.getpid()):
        raise RunningError(
            f"process {pid} burns this host in; it ends after its round if its connection broke, `kill -INT {pid}` ends it at once"
        )
    before = read_json(file) if file else {}
    rounds: Mapping[str, Any] = {"count": 0, "seconds": 0.0, "document": {}, "checks": {}, "speeds": {}}
    if before.get("asked") == asked and not before.get("complete"):
        statuses = {entry["record"]["status"] for entry in before["rounds"]["checks"].values()}
        rounds = rounds if statuses & FAILED else before["rounds"]
    own = {"asked": asked, "hours": hours, "pid": os.getpid(), "start_ticks": start_ticks(os.getpid())}
    interrupted = False
    try:
        while rounds["count"] < LEAST_ROUNDS or rounds["seconds"] < 3600 * hours:
            if rounds["count"] and (interrupted := _is_unheard()):
                break
            _keep(file, {**own, "rounds": rounds})
            began = time.monotonic()
            done = f"round {rounds['count'] + 1}, {rounds['seconds'] / 3600:.1f} of {hours:g} h: "
            rounds = _added(rounds, run_round(rounds["count"] + 1, done), time.monotonic() - began)
    except KeyboardInterrupt:
        if not rounds["count"]:
            raise
        interrupted = True
    finally:
        _keep(file, {**own, "rounds": rounds, "pid": None, "complete": not interrupted})
    records = []
    for entry in rounds["checks"].values():
        record, count, bad, first = (entry[name] for name in ("record", "rounds", "bad", "first"))
        reason = f"{record['reason']} ({count} rounds)"
        if bad:
            reason = f"in {bad} of {count} rounds, first in round {first}: {record['reason']}"
        records.append(dict(record) if count == 1 or record["status"] == "skip" else {**record, "reason": reason})
    outcome = _of_rounds(rounds, hours, interrupted=interrupted, drain=drain)
    records.append(as_record(RECORD, rounds["document"]["host"], None, outcome, rounds["seconds"]))
    status = worst_status([record["status"] for record in records])
    return {**rounds["document"], "status": status, "seconds": rounds["seconds"], "checks": records}


def _gpus() -> Any:
    """Return the UUID of each GPU, without one its address; None where torch cannot list them."""
    listed = run_one(
        lambda: sorted(str(gpu.uuid or gpu.pci) for gpu in torch_view.gpus()), deadline_s=SURVEY_DEADLINE_S
    )
    return listed.value


def _is_unheard() -> bool:
    """Return whether nobody reads what this process prints: its SSH connection has ended."""
    standard_output = select.poll()
    standard_output.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in standard_output.poll(0))


def _keep(file: Path | None, state: Mapping[str, Any]) -> None:
    """Write the rounds that ended. A disk that cannot take them must not end the checks."""
    if file:
        with suppress(OSError):
            write_atomically(file, json.dumps(state) + "\n")


def _added(rounds: Mapping[str, Any], document: Document, seconds: float) -> dict[str, Any]:
    """Return the rounds with one more: of each check and device the worst record, in how many rounds it ran, was skipped and was not ok, and speeds."""
    rule, number = table("burn_in")["spread"], rounds["count"] + 1
    checks = dict(rounds["checks"])
    speeds = {name: [*values] for name, values in rounds["speeds"].items()}
    for record in document["checks"]:
        key = f"{record['id']} {record['device']}"
        known = checks.get(key, {"record": record, "rounds": 0, "skipped": 0, "bad": 0, "first": None})
        is_bad, is_skipped = record["status"] not in ("ok", "skip"), record["status"] == "skip"
        is_worse = SEVERITY.index(record["status"]) > SEVERITY.index(known["record"]["status"])
        checks[key] = {
            "record": record if is_worse else known["record"],
            "rounds": known["rounds"] + (not is_skipped),
            "skipped": known["skipped"] + is_skipped,
            "bad": known["bad"] + is_bad,
            "first": known["first"] or (number if is_bad else None),
        }
        if record["id"] in rule["checks"] and record["device"] != "cpu":
            for figure in record["figures"]:
                if figure["unit"] in rule["units"] and figure["value"]:
                    name = f"{figure['name']} on {record['device']}" if record["device"] else figure["name"]
                    speeds.setdefault(name, []).append(float(f"{figure['value']:.5g}"))
    about = {name: value for name, value in document.items() if name != "checks"}
    about["last_round"] = {"started_at": about["started_at"], "seconds": round(seconds, 3)}
    about["started_at"] = rounds["document"].get("started_at", about["started_at"])
    total = round(rounds["seconds"] + seconds, 3)
    return {"count": number, "seconds": total, "document": about, "checks": checks, "speeds": speeds}


def _of_rounds(rounds: Mapping[str, Any], hours: float, *, interrupted: bool, drain: bool) -> CheckResult:
    rule, observations = table("burn_in")["spread"], []
    done, count = rounds["seconds"] / 3600, rounds["count"]
    if interrupted:
        text = f"interrupted after {done:.2f} of {hours:g} h, {count} round{'s' if count > 1 else ''}"
        again = f"the same command goes on where this one ended: ./firstlight verify --level burn-in --hours {hours:g}"
        again += " --drain" if drain else ""
        observations.append(Observation("warn", text, again))
    for entry in rounds["checks"].values():
        if entry["rounds"] and entry["skipped"]:
            name, device, ran = entry["record"]["id"], entry["record"]["device"], entry["rounds"]
            text = f"{name}{f' on {device}' if device else ''} ran in {ran} of {ran + entry['skipped']} rounds"
            observations.append(Observation("warn", text, table("burn_in")["skipped"]["remedy"]))
    gaps = {
        name: 1 - min(values) / statistics.median(values)
        for name, values in rounds["speeds"].items()
        if len(values) >= rule["least_rounds"]
    }
    for name, gap in gaps.items():
        if gap > rule["share"]:
            text = f"{name}: the slowest of {len(rounds['speeds'][name])} rounds is {gap:.0%} behind their median"
            observations.append(Observation("warn", text, rule["remedy"]))
    figures = [Figure("rounds", count, "count"), Figure("time of all rounds", done, "h")]
    if gaps:
        bounds = {"ceiling": rule["share"], "source": rule["source"]}
        figures.append(Figure("slowest round", max(gaps.values()), "behind the median", **bounds))
    speeds = f"no speed is more than {max(gaps.values()):.0%} behind its median" if gaps else "no speeds to compare"
    healthy = f"{count} round{'s' if count > 1 else ''} in {done:.2f} h; {speeds}"
    return combine(observations, healthy, tuple(figures), {"speeds": rounds["speeds"]})

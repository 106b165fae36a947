"""Runs the chosen checks and makes the document of a run."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

from verify import VERSION, devices
from verify.faults import ANY_CHECK, strike
from verify.isolate import Ending, Task, run_all, run_one
from verify.needs import unmet
from verify.records import FRAME, RUN_DEADLINE_S, Check, Context, Outcome, as_record, worst


class Injection(NamedTuple):
    """A fault, and the check or family it hits; every one when that is null."""

    fault: str
    target: str | None

    def hits(self, check: Check) -> bool:
        """Whether a check shall meet this fault."""
        known = self.fault in check.faults or self.fault in ANY_CHECK
        return known and self.target in (None, check.id, check.family)


def run(
    checks: Sequence[Check], context: Context, injections: Sequence[Injection] = (), deadline_s: float | None = None
) -> dict[str, Any]:
    """The document of a run; `deadline_s` shortens every check's own deadline.

    All of it happens in a process of its own, so that even a torch that aborts while it is imported gives a document.
    """
    started_at = _now()
    started = time.monotonic()
    context = replace(context, started=time.time())
    limit_s = RUN_DEADLINE_S[context.level]
    ending = run_one(lambda: _run_here(checks, context, injections, deadline_s), deadline_s=limit_s)
    if ending.problem:
        records = [_record(FRAME, None, _problem(ending), ending.seconds)]
        about: dict[str, Any] = {}
    else:
        records, about = ending.value["checks"], ending.value["about"]
    return {
        "schema_version": 1,
        "verify": VERSION,
        "status": worst([record["status"] for record in records]),
        "level": context.level,
        "host": platform.node(),
        "started_at": started_at,
        "seconds": round(time.monotonic() - started, 3),
        "python": platform.python_version(),
        "executable": sys.executable,
        "torch": about.get("torch"),
        "torch_import_s": about.get("torch_import_s"),
        "injected": [injection.fault for injection in injections],
        "checks": records,
    }


def _run_here(
    checks: Sequence[Check], context: Context, injections: Sequence[Injection], deadline_s: float | None
) -> dict[str, Any]:
    started = time.monotonic()
    version, problem = _import_torch()
    about = {"torch": version, "torch_import_s": round(time.monotonic() - started, 3)}
    context = replace(context, torch_problem=problem)
    devices_problem = None
    if problem is None and any(check.each_device or check.all_devices for check in checks):
        found, devices_problem = devices.survey(context)
        context = replace(context, devices=found)

    records: list[dict[str, Any]] = []
    met: frozenset[str] = frozenset()
    tasks: list[Task[tuple[Check, str | None]]] = []
    for check in checks:
        outcome = unmet(check.needs, context)
        if (check.each_device or check.all_devices) and devices_problem and not outcome:
            outcome = Outcome("error", f"cannot tell: {devices_problem}")
        if outcome:
            records.append(_record(check.id, None, outcome, 0.0))
            continue
        for device in context.devices if check.each_device else (None,):
            faults = frozenset(injection.fault for injection in injections if injection.hits(check))
            own = replace(context, device=device, faults=faults)
            met |= faults
            tasks.append(
                Task((check, device), _call(check, own), min(check.deadline_s, deadline_s or check.deadline_s))
            )
    tasks.sort(key=lambda task: -task.deadline_s)  # those that may take longest begin first
    for alone, limit in ((False, max(2, len(os.sched_getaffinity(0)))), (True, 1)):
        chosen = [task for task in tasks if task.key[0].alone == alone]
        for (check, device), ending in run_all(chosen, limit=limit):
            records.append(_record(check.id, device, _outcome(ending), ending.seconds))
    records += [record for check in checks if (record := _together(check, records))]
    for fault in sorted({injection.fault for injection in injections} - met):
        outcome = Outcome("error", f"the injected fault `{fault}` met no check that runs here")
        records.append(_record(FRAME, None, outcome, 0.0))
    order = {check.id: place for place, check in enumerate(checks)}
    records.sort(key=lambda record: (order.get(record["id"], -1), record["device"] or ""))
    return {"checks": records, "about": about}


def _together(check: Check, records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What a check says of all devices together; null where it says nothing, or where fewer than two were measured."""
    answers = {
        record["device"]: record
        for record in records
        if record["id"] == check.id and record["device"] and record["status"] in ("ok", "warn")
    }
    outcome = check.together(answers) if check.together and len(answers) > 1 else None
    return _record(check.id, None, outcome, 0.0) if outcome else None


def _import_torch() -> tuple[str | None, str | None]:
    # Checks run beside one another: a thread that waits must sleep, not spin on the CPU that the other one needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import torch
    except BaseException as error:  # noqa: BLE001 - a broken torch raises anything, and it is what we are here to tell
        return None, f"{type(error).__name__}: {error}"
    return str(torch.__version__), None


def _call(check: Check, context: Context) -> Any:
    def call() -> dict[str, Any]:
        strike(context.faults)
        return (_busy(check, context) or check.run(context)).as_json()

    return call


def _busy(check: Check, context: Context) -> Outcome | None:
    """Why a check that measures cannot measure now."""
    if check.alone and context.device:
        return devices.busy(context)
    return devices.any_busy(context) if check.alone and check.all_devices and len(context.devices) > 1 else None


def _outcome(ending: Ending) -> dict[str, Any]:
    return ending.value if ending.problem is None else _problem(ending).as_json()


def _problem(ending: Ending) -> Outcome:
    return Outcome("error", f"cannot tell: {ending.problem}", evidence={"output": ending.output})


def _record(id_: str, device: str | None, answer: Outcome | Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return as_record(id_, platform.node(), device, answer, seconds)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")

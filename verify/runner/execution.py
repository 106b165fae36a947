"""Execution of checks, each after those that it requires, and the document of a run. A check is skipped if one that it requires failed."""

import contextlib
import faulthandler
import os
import platform
import signal
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from verify import VERSION
from verify.host import devices
from verify.host.control_group import usable_cores
from verify.host.views import torch_view
from verify.records import FRAME, NEEDS, Check, CheckContext, CheckResult, Level, Status, as_record, worst_status
from verify.runner.child_processes import ChildResult, SendMessage, Task, run_all, run_one
from verify.tables import table

FAILED: frozenset[Status] = frozenset({"fail", "error"})
OVERHEAD_S = 120.0
"""Time of a run outside its checks: import torch, list devices, give up a process that the kernel holds."""
BESIDE_SERVICE = 4
"""Checks at once on each GPU beside a service, which leaves less than a tenth of its memory: each check has a context of its own there."""
FAULTS: Mapping[str, Mapping[str, Any]] = {row["name"]: row for row in table("faults")["fault"]}
DEVICES = "devices.torch"
"""The check that reports whether the devices are known."""


class CheckCall(NamedTuple):
    """One call of a check on a device; None means the host."""

    check: Check
    device: str | None

    def __str__(self) -> str:
        return self.check.id if self.device is None else f"{self.check.id} on {self.device}"


def with_dependencies(chosen: Iterable[Check], known: Sequence[Check]) -> list[Check]:
    """Return the chosen checks and all that they require, in the order of `known`."""
    by_id = {check.id: check for check in known}
    wanted, found = list(chosen), set()
    while wanted:
        check = wanted.pop()
        if check.id not in found:
            found.add(check.id)
            wanted += [by_id[name] for name in check.requires]
    return [check for check in known if check.id in found]


class DependencyTree:
    """Calls of checks that wait for other checks: on their own device, or on all devices if they cover the host."""

    def __init__(self, calls: Sequence[CheckCall]) -> None:
        self._dependencies = {
            call: [
                one
                for one in calls
                if one.check.id in call.check.requires and (call.device is None or one.device in (None, call.device))
            ]
            for call in calls
        }
        self._causes: dict[CheckCall, str] = {}
        """The first cause of each call that failed or was skipped."""
        self._order = TopologicalSorter(self._dependencies)
        self._order.prepare()

    def end(self, call: CheckCall, status: Status) -> None:
        """Record the status of a finished call."""
        if status in FAILED:
            self._causes[call] = str(call)
        self._order.done(call)

    def ready(self) -> tuple[list[CheckCall], list[tuple[CheckCall, str]]]:
        """Return the calls that can start now, and those that never will with their first cause. Each call is returned once."""
        begin: list[CheckCall] = []
        never: list[tuple[CheckCall, str]] = []
        while calls := self._order.get_ready():
            for call in calls:
                causes = [self._causes[one] for one in self._dependencies[call] if one in self._causes]
                if causes:
                    never.append((call, causes[0]))
                    self._causes[call] = causes[0]
                    self._order.done(call)  # a skipped call may itself be required by another one
                else:
                    begin.append(call)
        return begin, never


class Injection(NamedTuple):
    """A fault, and the check or family that it targets; None targets every check."""

    fault: str
    target: str | None

    def hits(self, check: Check) -> bool:
        """Return whether a check receives this fault."""
        known = self.fault in check.faults or "any_check" in FAULTS[self.fault]
        return known and self.target in (None, check.id, check.family)


def run(
    checks: Sequence[Check],
    context: CheckContext,
    injections: Sequence[Injection] = (),
    deadline_s: float | None = None,
) -> dict[str, Any]:
    """Run checks and return the document of the run.

    The run happens in a child process that sends each record as soon as it exists. Records therefore survive a torch that
    aborts on import, and a run that is interrupted.

    The checks include those that they require. `deadline_s` limits the deadline of every check.
    """
    started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    started = time.monotonic()
    context = replace(context, started=time.time())
    call = partial(_run_here, checks, context, injections, deadline_s)
    _show(context, "")
    try:
        longest = max((_limit_s(check, deadline_s) for check in checks), default=0.0)
        ending = run_one(call, deadline_s=OVERHEAD_S + longest, sends_messages=True)
    finally:
        _show(context, "")
    about, records = _collect(checks, ending)
    return {
        "schema_version": 1,
        "verify": VERSION,
        "status": worst_status([record["status"] for record in records]),
        "level": context.level,
        "environment": environment_name(context.prefix),
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


def _show(context: CheckContext, text: str) -> None:
    """Say in the run's progress file what runs. A disk that cannot take it must not end the checks."""
    if context.progress:
        with contextlib.suppress(OSError):
            context.progress.write_text(text)


def _collect(checks: Sequence[Check], ending: ChildResult) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the properties of a run and its records in the order of the checks, including checks that did not run."""
    about: dict[str, Any] = {}
    begun: list[list[Any]] = []
    records: list[dict[str, Any]] = []
    for message in ending.messages:
        about |= message.get("about", {})
        begun += [message["begun"]] if "begun" in message else []
        records += [message["record"]] if "record" in message else []
    if ending.problem:
        ended = {(record["id"], record["device"]) for record in records}
        cut = CheckResult("error", f"did not finish: {ending.problem}")
        records += [
            as_record(id_, platform.node(), device, cut, 0.0) for id_, device in begun if (id_, device) not in ended
        ]
        known = {record["id"] for record in records}
        left = (check.id for check in checks if check.id not in known)
        records += [as_record(id_, platform.node(), None, CheckResult("skip", f"{NEEDS}{FRAME}"), 0.0) for id_ in left]
        records.append(as_record(FRAME, platform.node(), None, _problem(ending), ending.seconds))
    order = {check.id: place for place, check in enumerate(checks)}
    return about, sorted(records, key=lambda record: (order.get(record["id"], -1), record["device"] or ""))


def _run_here(
    checks: Sequence[Check],
    context: CheckContext,
    injections: Sequence[Injection],
    deadline_s: float | None,
    send: SendMessage,
) -> None:
    started = time.monotonic()
    version, problem = _import_torch()
    send({"about": {"torch": version, "torch_import_s": round(time.monotonic() - started, 3)}})
    context = replace(context, torch_problem=problem)
    if problem is None and any(check.each_device or check.all_devices or check.id == DEVICES for check in checks):
        found, problem = devices.list_devices(context)
        context = replace(context, devices=found, devices_problem=problem)
    met = _Run(context, injections, deadline_s, send).run(checks)
    for fault in sorted({injection.fault for injection in injections} - met):
        outcome = CheckResult("error", f"the injected fault `{fault}` reached no check that runs here")
        send({"record": as_record(FRAME, platform.node(), None, outcome, 0.0)})


class _Run:
    """Scheduler of a run: starts each check after the checks that it requires."""

    def __init__(
        self, context: CheckContext, injections: Sequence[Injection], deadline_s: float | None, send: SendMessage
    ) -> None:
        self._context, self._injections, self._deadline_s, self._send = context, injections, deadline_s, send
        self._records: list[dict[str, Any]] = []
        self._exclusive: list[Task[CheckCall]] = []
        """Exclusive checks; they start after all others have ended."""

    def run(self, checks: Sequence[Check]) -> set[str]:
        """Run the checks and send their records; return the faults that reached one of them."""
        self._faults = {
            check.id: frozenset(injection.fault for injection in self._injections if injection.hits(check))
            for check in checks
        }
        keys, concerned = [], []
        for check in checks:
            own_context = replace(self._context, level=self._level(check), faults=self._faults[check.id])
            outcome = next((outcome for need in check.preconditions if (outcome := need(own_context))), None)
            if outcome:
                self._add_record(check, None, outcome)
                continue
            concerned.append(check)
            # A check with an injected fault does not depend on a healthy host.
            own = replace(check, requires=()) if self._faults[check.id] else check
            keys += [CheckCall(own, device) for device in (check.each_device and self._context.devices) or (None,)]
        self._tree, self._number = DependencyTree(keys), len(self._records) + len(keys)
        for tasks, limit in ((self._next(), max(2, usable_cores())), (self._exclusive, 1)):
            tasks.sort(key=lambda one: -one.deadline_s)
            for _ in run_all(tasks, limit=limit, after=self._ended, begun=self._begun, fits=self._fits):
                pass
        for check in checks:
            compared = check.compare_devices((record["device"], record) for record in self._records)
            if compared is not None:
                self._add_record(check, None, compared)
        return {fault for check in concerned for fault in self._faults[check.id]}

    def _level(self, check: Check) -> Level:
        return self._context.level_overrides.get(check.id, self._context.level)

    def _next(self) -> list[Task[CheckCall]]:
        """Return the checks that can start now, those with the longest deadline first."""
        begin, never = self._tree.ready()
        for key, cause in never:
            self._add_record(key.check, key.device, CheckResult("skip", f"{NEEDS}{cause}"))
        self._exclusive += [self._task(key) for key in begin if key.check.exclusive]
        return sorted((self._task(key) for key in begin if not key.check.exclusive), key=lambda one: -one.deadline_s)

    def _task(self, key: CheckCall) -> Task[CheckCall]:
        own = replace(self._context, level=self._level(key.check), device=key.device, faults=self._faults[key.check.id])
        return Task(key, partial(_call, key.check, own), _limit_s(key.check, self._deadline_s))

    def _fits(self, key: CheckCall, running: Sequence[CheckCall]) -> bool:
        """Return whether a check finds memory on its GPU beside a service and the checks that run."""
        service = self._context.service
        if service is None or not service.main_pid or key.device not in self._context.gpus:
            return True
        return sum(one.device == key.device for one in running) < BESIDE_SERVICE

    def _begun(self, key: CheckCall) -> None:
        self._send({"begun": [key.check.id, key.device]})
        _show(self._context, f"{self._context.round}{len(self._records) + 1}/{self._number} {key.check.id}")

    def _ended(self, key: CheckCall, ending: ChildResult) -> list[Task[CheckCall]]:
        answer = ending.value if ending.problem is None else _problem(ending).as_json()
        self._add_record(key.check, key.device, answer, ending.seconds)
        self._tree.end(key, answer["status"])
        return self._next()

    def _add_record(
        self, check: Check, device: str | None, answer: CheckResult | Mapping[str, Any], seconds: float = 0.0
    ) -> None:
        self._records.append(as_record(check.id, platform.node(), device, answer, seconds, level=self._level(check)))
        self._send({"record": self._records[-1]})


def _limit_s(check: Check, deadline_s: float | None) -> float:
    return min(check.deadline_s, deadline_s or check.deadline_s)


def _import_torch() -> tuple[str | None, str | None]:
    # Checks run in parallel: a waiting thread must sleep, because another check needs the CPU.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the same order as for the service and in the Stack
    try:
        torch = torch_view.load()
    except BaseException as error:  # noqa: BLE001 - a broken torch may raise anything, which is the result
        return None, f"{type(error).__name__}: {error}"
    return str(torch.__version__), None


def _call(check: Check, context: CheckContext) -> dict[str, Any]:
    if "crash" in context.faults:
        faulthandler.disable()  # an intended crash needs no dump
        os.kill(os.getpid(), signal.SIGSEGV)
    while "hang" in context.faults:
        time.sleep(60)
    busy = None  # why an exclusive check cannot measure now
    if check.exclusive and context.device:
        busy = devices.skip_if_busy(context)
    elif check.exclusive and check.all_devices and len(context.devices) > 1:
        busy = devices.skip_if_any_busy(context)
    return (busy or check.run(context)).as_json()


def _problem(ending: ChildResult) -> CheckResult:
    return CheckResult("error", f"cannot tell: {ending.problem}", evidence={"output": ending.output})


def environment_name(prefix: Path | None) -> str | None:
    """Return the name of the environment's folder below PREFIX/envs; None outside an installation."""
    return Path(sys.prefix).resolve().name if prefix else None

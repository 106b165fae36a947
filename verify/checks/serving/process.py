"""serving.process: the service's processes compared with the plan."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verify.binaries.cuda_compat import compat_folder
from verify.binaries.distributions import host_packages
from verify.records import CheckContext, CheckResult, Figure, first_few
from verify.serving import readiness_proof, service_plan
from verify.serving.process_differences import (
    attention_problems,
    code_problems,
    command_problems,
    limit_problems,
    scheduling_problems,
    status_problems,
    variable_problems,
)
from verify.serving.processes import STOPPED, ListeningSocket, Process, listeners, read_all
from verify.serving.service import Service
from verify.serving.service_control import ControlError
from verify.serving.service_plan import ServicePlan
from verify.serving.service_state import ServiceState, observe, stopped_by
from verify.tables import table

ANEW = "./firstlight stop, then ./firstlight serve restart it"
RESTART = f"run ./firstlight provision; if it finds nothing to do: {ANEW}"


@dataclass(frozen=True)
class ProcessFacts:
    """Observations on the host."""

    main_pid: int
    processes: tuple[Process, ...]
    """The server and all its descendants."""
    listeners: tuple[ListeningSocket, ...]
    port: int = 8000
    age_s: float = 0.0
    interpreter: str = ""
    """The environment's Python, without symlinks."""
    homes: tuple[str, ...] = ()
    """Folders of the installation that code may come from, without symlinks."""
    uid: int | None = None
    """The planned account."""
    key: str | None = None
    highest: Mapping[str, str] = field(default_factory=dict)
    """The supervisor's own limits, which it cannot exceed."""
    manager: Mapping[str, str] = field(default_factory=dict)
    """How the kernel treats the supervisor."""
    readiness: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Mapping[str, Any], ...] = ()
    """Notes of the engine's processes about their attention layers."""
    proven: bool | None = None
    """Whether the last proof was of this start; None if there was none."""


SERVER = Process(7, 1, argv=("/e/bin/python", "/v", "serve"), executable="/usr/bin/python3", sockets=frozenset({"9"}))
STAND_IN = (
    ServicePlan("systemd", "firstlight-vllm.service", "[Service]\nExecStart=/v serve\n", api_key=False),
    ProcessFacts(
        7,
        (SERVER,),
        (ListeningSocket("127.0.0.1", "9", (SERVER,)),),
        interpreter="/usr/bin/python3",
        readiness={"processes": 1, "asked": "CPU_ATTN"},
        notes=({"layers": [{"backend": "CPU_ATTN"}]},),
    ),
)
"""A correct service, on which an injected fault is proven."""


def run(context: CheckContext) -> CheckResult:
    planned, facts = STAND_IN
    if context.service is not None and not context.faults:
        planned = service_plan.read(context.service)
        try:
            state = observe(context.service)
        except ControlError as error:
            return CheckResult("error", f"cannot read the state of the service: {error}")
        found = collect(context.service, planned, state.main_pid, context.stack)
        if found is None:
            return _without_it(context.service, planned, state)
        facts = found
    if "changed-service" in context.faults:
        stranger = Process(66, 1, argv=("python3", "-m", "http.server"))
        facts = replace(facts, listeners=(ListeningSocket("127.0.0.1", "9", (stranger,)),))
    return evaluate(planned, facts)


def _without_it(service: Service, planned: ServicePlan, state: ServiceState) -> CheckResult:
    """Return whether another process has the port of a service that does not run."""
    port = int(service.readiness["port"])
    others = [process.title for socket in listeners(port, ()) for process in socket.holders]
    if not others or stopped_by(service, state):
        return CheckResult("skip", f"{planned.name} does not run: see serving.unit")
    text = f"port {port} is held by {' and '.join(others)}, and {planned.name} is {state.text}"
    return CheckResult("fail", text, remedy="end the process that holds the port, then ./firstlight serve")


def collect(service: Service, planned: ServicePlan, main_pid: int, stack: Mapping[str, Any]) -> ProcessFacts | None:
    """Read the processes of the service; None if its server is not alive."""
    processes = read_all(replace(service, main_pid=main_pid).pids()) if main_pid else ()
    main = next((one for one in processes if one.pid == main_pid), None)
    if main is None:
        return None
    prefix, live = service.prefix.resolve(), (service.prefix / "current").resolve()
    others = (host_packages(stack), compat_folder(stack))
    homes = [live, prefix / "python", prefix / "cache", Path(sys.base_prefix).resolve(), *filter(None, others)]
    port = int(service.readiness["port"])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    owner = _uid(planned.user) if planned.user else service.prefix.stat().st_uid
    manager = read_all([main.parent])
    return ProcessFacts(
        main_pid=main.pid,
        processes=processes,
        listeners=listeners(port, processes),
        port=port,
        age_s=uptime - main.start_ticks / os.sysconf("SC_CLK_TCK"),
        interpreter=str((live / "bin" / "python").resolve()),
        homes=tuple(f"{home}/" for home in homes),
        uid=owner,
        key=service.api_key(),
        highest=manager[0].hard_limits if manager else {},
        manager=manager[0].scheduling if manager else {},
        readiness=service.readiness,
        notes=readiness_proof.attention_notes(service, processes),
        proven=readiness_proof.proves_start(service, main),
    )


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def evaluate(planned: ServicePlan, facts: ProcessFacts) -> CheckResult:
    """Report failures before warnings; all of them are in the evidence."""
    main = next(process for process in facts.processes if process.pid == facts.main_pid)
    failures = _listener_problems(planned, facts)
    failures += [
        f"{one.title} is stopped by a signal (state {one.state})" for one in facts.processes if one.state in STOPPED
    ]
    failures += command_problems(planned, main, facts.interpreter)
    injected, warnings = variable_problems(planned, facts.processes, facts.main_pid, facts.homes, facts.key)
    foreign, outdated = code_problems(facts.processes, facts.homes)
    failures += injected + foreign + status_problems(planned, facts.processes, facts.uid)
    failures += limit_problems(planned, main, facts.highest)
    failures += scheduling_problems(planned, facts.processes, facts.main_pid, facts.manager)
    listens = bool(facts.listeners)
    failures += attention_problems(facts.notes, facts.readiness) if listens else []
    warnings += outdated
    if not listens and facts.age_s <= table("process")["start"]["limit_s"]:
        warnings.insert(
            0, f"{planned.name} was started {facts.age_s:.0f} s ago and does not listen on port {facts.port} yet"
        )
    evidence = {
        "processes": {one.pid: one.title for one in facts.processes},
        "listens": [f"{one.address} port {facts.port}" for one in facts.listeners],
        "answers verified since this start": facts.proven,
        "problems": [*failures, *warnings],
    }
    figures = (Figure("processes", len(facts.processes), "count"), Figure("runs for", facts.age_s, "s"))
    if failures:
        return CheckResult("fail", first_few(failures, 3, more="; and"), figures, evidence, _remedy(facts))
    if warnings:
        return CheckResult(
            "warn",
            first_few(warnings, 3, more="; and"),
            figures,
            evidence,
            ANEW if listens else "check again when it answers",
        )
    since = "" if facts.proven else "; restarted since its answers were verified"
    text = (
        f"{main.title} and {len(facts.processes) - 1} descendants run as planned, from this environment's files{since}"
    )
    return CheckResult("ok", text, figures, evidence)


def _remedy(facts: ProcessFacts) -> str:
    stopped = [str(one.pid) for one in facts.processes if one.state in STOPPED]
    own = {process.pid for process in facts.processes}
    strangers = {str(one.pid) for socket in facts.listeners for one in socket.holders if one.pid not in own}
    if strangers:
        return f"end the processes that hold the port: kill {' '.join(sorted(strangers))}; then ./firstlight serve"
    return f"continue it: kill -CONT {' '.join(stopped)}; or ./firstlight provision" if stopped else RESTART


def _listener_problems(planned: ServicePlan, facts: ProcessFacts) -> list[str]:
    own = {process.pid for process in facts.processes}
    found = []
    for socket in facts.listeners:
        strangers = [process.title for process in socket.holders if process.pid not in own]
        if strangers:
            found.append(f"port {facts.port} is held by {' and '.join(strangers)}, which {planned.name} did not start")
        elif not socket.holders:
            found.append(f"port {facts.port} on {socket.address} is held by a process that is not {planned.name}'s")
    if not facts.listeners and facts.age_s > table("process")["start"]["limit_s"]:
        found.append(f"nothing listens on port {facts.port}, {facts.age_s:.0f} s after {planned.name} was started")
    return found

"""serving.process: what answers is the planned service's own process, as it was planned to run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verify import needs
from verify.compat import folder_of
from verify.distributions import host_packages
from verify.records import Check, Context, Figure, Outcome
from verify.serving import plan, proofs
from verify.serving.as_planned import (
    attention_problems,
    code_problems,
    command_problems,
    limit_problems,
    status_problems,
    variable_problems,
)
from verify.serving.control import ControlError
from verify.serving.plan import Plan
from verify.serving.processes import STOPPED, Listener, Process, listeners, read_all
from verify.serving.service import Service
from verify.serving.state import State, observe, stopped_by
from verify.tables import table

ANEW = "./firstlight stop, then ./firstlight serve start it anew"
RESTART = f"./firstlight provision puts it right; where that finds nothing to do: {ANEW}"


@dataclass(frozen=True)
class Seen:
    """What was found on the host."""

    main_pid: int
    processes: tuple[Process, ...]
    """The server and all that it started."""
    listeners: tuple[Listener, ...]
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
    """The supervisor's own limits: it can give no more."""
    readiness: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Mapping[str, Any], ...] = ()
    """What the engine's processes noted of their attention layers."""
    proven: bool | None = None
    """Whether the last proof was of this very start; null where there was none."""


SERVER = Process(7, 1, argv=("/e/bin/python", "/v", "serve"), executable="/usr/bin/python3", sockets=frozenset({"9"}))
STAND_IN = (
    Plan("systemd", "firstlight-vllm.service", "[Service]\nExecStart=/v serve\n", api_key=False),
    Seen(
        7,
        (SERVER,),
        (Listener("127.0.0.1", "9", (SERVER,)),),
        interpreter="/usr/bin/python3",
        readiness={"processes": 1, "asked": "CPU_ATTN"},
        notes=({"layers": [{"backend": "CPU_ATTN"}]},),
    ),
)
"""A sound service, on which an injected fault is proven."""


def _run(context: Context) -> Outcome:
    planned, seen = STAND_IN
    if context.service is not None and not context.faults:
        planned = plan.read(context.service)
        try:
            state = observe(context.service)
        except ControlError as error:
            return Outcome("error", f"cannot tell how the service stands: {error}")
        found = look(context.service, planned, state.main_pid, context.stack)
        if found is None:
            return _without_it(context.service, planned, state)
        seen = found
    if "changed-service" in context.faults:
        stranger = Process(66, 1, argv=("python3", "-m", "http.server"))
        seen = replace(seen, listeners=(Listener("127.0.0.1", "9", (stranger,)),))
    return judge(planned, seen)


def _without_it(service: Service, planned: Plan, state: State) -> Outcome:
    """Where the service does not run: whether another process has its place."""
    port = int(service.readiness["port"])
    others = [process.title for socket in listeners(port, ()) for process in socket.holders]
    if not others or stopped_by(service, state):
        return Outcome("skip", f"{planned.name} does not run: serving.unit says how it stands")
    text = f"port {port} is held by {' and '.join(others)}, and {planned.name} is {state.text}"
    return Outcome("fail", text, remedy="end what holds the port, then ./firstlight serve")


def look(service: Service, planned: Plan, main_pid: int, stack: Mapping[str, Any]) -> Seen | None:
    """Read the processes of the service; null where its server does not live."""
    processes = read_all(replace(service, main_pid=main_pid).pids()) if main_pid else ()
    main = next((one for one in processes if one.pid == main_pid), None)
    if main is None:
        return None
    prefix, live = service.prefix.resolve(), (service.prefix / "current").resolve()
    others = (host_packages(stack), folder_of(stack))
    homes = [live, prefix / "python", prefix / "cache", Path(sys.base_prefix).resolve(), *filter(None, others)]
    port = int(service.readiness["port"])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    owner = _uid(planned.user) if planned.user else service.prefix.stat().st_uid
    manager = read_all([main.parent])
    return Seen(
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
        readiness=service.readiness,
        notes=proofs.notes(service, processes),
        proven=proofs.is_of(service, main),
    )


def _uid(user: str) -> int | None:
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def judge(planned: Plan, seen: Seen) -> Outcome:
    """Failures speak before warnings; all of them stand in the evidence."""
    main = next(process for process in seen.processes if process.pid == seen.main_pid)
    failures = _listener_problems(planned, seen)
    failures += [
        f"{one.title} is stopped by a signal (state {one.state})" for one in seen.processes if one.state in STOPPED
    ]
    failures += command_problems(planned, main, seen.interpreter)
    injected, warnings = variable_problems(planned, seen.processes, seen.main_pid, seen.homes, seen.key)
    foreign, outdated = code_problems(seen.processes, seen.homes)
    failures += injected + foreign + status_problems(planned, seen.processes, seen.uid)
    failures += limit_problems(planned, main, seen.highest)
    listens = bool(seen.listeners)
    failures += attention_problems(seen.notes, seen.readiness) if listens else []
    warnings += outdated
    if not listens and seen.age_s <= table("process")["start"]["limit_s"]:
        warnings.insert(
            0, f"{planned.name} was started {seen.age_s:.0f} s ago and does not listen on port {seen.port} yet"
        )
    evidence = {
        "processes": {one.pid: one.title for one in seen.processes},
        "listens": [f"{one.address} port {seen.port}" for one in seen.listeners],
        "the last proof was of this start": seen.proven,
        "problems": [*failures, *warnings],
    }
    figures = (Figure("processes", len(seen.processes), "count"), Figure("runs for", seen.age_s, "s"))
    if failures:
        return Outcome("fail", _short(failures), figures, evidence, _remedy(seen))
    if warnings:
        return Outcome("warn", _short(warnings), figures, evidence, ANEW if listens else "ask again when it answers")
    since = "" if seen.proven else "; started anew since it was proven last"
    text = f"{main.title} and {len(seen.processes) - 1} below it run as planned, from this environment's files{since}"
    return Outcome("ok", text, figures, evidence)


def _short(problems: list[str]) -> str:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _remedy(seen: Seen) -> str:
    stopped = [str(one.pid) for one in seen.processes if one.state in STOPPED]
    own = {process.pid for process in seen.processes}
    strangers = {str(one.pid) for socket in seen.listeners for one in socket.holders if one.pid not in own}
    if strangers:
        return f"end what holds the port: kill {' '.join(sorted(strangers))}; then ./firstlight serve"
    return f"let it go on: kill -CONT {' '.join(stopped)}; or ./firstlight provision" if stopped else RESTART


def _listener_problems(planned: Plan, seen: Seen) -> list[str]:
    own = {process.pid for process in seen.processes}
    found = []
    for socket in seen.listeners:
        strangers = [process.title for process in socket.holders if process.pid not in own]
        if strangers:
            found.append(f"port {seen.port} is held by {' and '.join(strangers)}, which {planned.name} did not start")
        elif not socket.holders:
            found.append(f"port {seen.port} on {socket.address} is held by a process that is not {planned.name}'s")
    if not seen.listeners and seen.age_s > table("process")["start"]["limit_s"]:
        found.append(f"nothing listens on port {seen.port}, {seen.age_s:.0f} s after {planned.name} was started")
    return found


CHECK = Check(
    id="serving.process",
    proves="What listens is the unit's own process: command, variables, account, limits, code and attention layers as planned.",
    run=_run,
    level="standard",
    needs=(needs.service,),
    faults=("changed-service",),
)

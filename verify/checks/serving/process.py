"""serving.process: the service's processes compared with the plan. Differences are texts without secrets."""

import math
import os
import pwd
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from verify.binaries.distributions import compat_folder, host_packages
from verify.files import printed
from verify.records import CheckContext, CheckResult, Figure, Observation, combine, first_few
from verify.serving import service_plan
from verify.serving.processes import (
    STOPPED,
    ListeningSocket,
    Process,
    attention_notes,
    listeners,
    proves_start,
    read_all,
)
from verify.serving.service import KEY, Service
from verify.serving.service_control import observe, stopped_by
from verify.serving.service_plan import ServicePlan
from verify.tables import table

ANEW = "./firstlight stop, then ./firstlight serve restart it"
DELETED = " (deleted)"
IONICE_S = 5.0
NAME_OF_KEY = KEY.rstrip("=")
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

    @property
    def main(self) -> Process:
        """The server."""
        return next(process for process in self.processes if process.pid == self.main_pid)

    def strangers(self, socket: ListeningSocket) -> list[Process]:
        """Return the processes that hold a socket and are not the service's."""
        own = {process.pid for process in self.processes}
        return [process for process in socket.holders if process.pid not in own]


Problems = Iterator[tuple[Literal["fail", "warn"], str]]
"""Status and text of each difference from the plan."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate(*_with_stranger())
    planned = service_plan.read(service)
    state = observe(service)
    facts = collect(service, planned, state.main_pid, context.stack)
    if facts is not None:
        return evaluate(planned, facts)
    port = int(service.readiness["port"])
    others = [process.title for socket in listeners(port) for process in socket.holders]
    if not others or stopped_by(service, state):
        return CheckResult("skip", f"{planned.name} does not run: see serving.unit")
    text = f"port {port} is held by {' and '.join(others)}, and {planned.name} is {state.text}"
    return CheckResult("fail", text, remedy="end the process that holds the port, then ./firstlight serve")


def _with_stranger() -> tuple[ServicePlan, ProcessFacts]:
    """Return a service that is as planned but for a stranger on its port, the injected fault."""
    server = Process(7, 1, argv=("/e/bin/python", "/v", "serve"), executable="/usr/bin/python3")
    stranger = Process(66, 1, argv=("python3", "-m", "http.server"))
    unit = "[Service]\nExecStart=/v serve\n"
    return ServicePlan("systemd", "firstlight-vllm.service", unit, api_key=False), ProcessFacts(
        7,
        (server,),
        (ListeningSocket("127.0.0.1", (stranger,)),),
        interpreter=server.executable,
        readiness={"processes": 1, "asked": "CPU_ATTN"},
        notes=({"layers": [{"backend": "CPU_ATTN"}]},),
    )


def collect(service: Service, planned: ServicePlan, main_pid: int, stack: Mapping[str, Any]) -> ProcessFacts | None:
    """Read the processes of the service; None if its server is not alive."""
    processes = read_all(replace(service, main_pid=main_pid).pids()) if main_pid else ()
    started = next((one for one in processes if one.pid == main_pid), None)
    main = started
    if planned.container:  # systemd started podman's monitor, and that the server
        processes = tuple(one for one in processes if one.pid != main_pid)
        main = next((one for one in processes if one.parent == main_pid), None)
    if main is None or started is None:
        return None
    processes = tuple(map(_with_io_class, processes))
    prefix, live = service.prefix.resolve(), (service.prefix / "current").resolve()
    others = (host_packages(stack), compat_folder(stack))
    homes = [live, prefix / "python", prefix / "cache", Path(sys.base_prefix).resolve(), *filter(None, others)]
    port = int(service.readiness["port"])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    owner = pwd.getpwnam(planned.user).pw_uid if planned.user else service.prefix.stat().st_uid
    manager = tuple(map(_with_io_class, read_all([main.parent])))
    return ProcessFacts(
        main_pid=main.pid,
        processes=processes,
        listeners=listeners(port),
        port=port,
        age_s=uptime - main.start_ticks / os.sysconf("SC_CLK_TCK"),
        interpreter=str((live / "bin" / "python").resolve()),
        homes=tuple(f"{home}/" for home in homes),
        uid=owner,
        key=service.api_key(),
        highest=manager[0].hard_limits if manager else {},
        manager=manager[0].scheduling if manager else {},
        readiness=service.readiness,
        notes=attention_notes(service, processes),
        proven=proves_start(service, started),
    )


def _with_io_class(process: Process) -> Process:
    """Return a process with its I/O class, which /proc does not show."""
    row = table("process")["scheduling"]["io"]
    found = (printed(["ionice", "-p", str(process.pid)], limit_s=IONICE_S) or "").partition(":")[0].strip()
    return replace(process, scheduling={**process.scheduling, "io": row["values"].get(found, found)})


def evaluate(planned: ServicePlan, facts: ProcessFacts) -> CheckResult:
    """Compare the processes with the plan; all differences are in the evidence."""
    parts = (_listening, _command, _variables, _code, _status, _limits, _scheduling, _attention)
    stopped = [str(one.pid) for one in facts.processes if one.state == STOPPED]
    strangers = {str(one.pid) for socket in facts.listeners for one in facts.strangers(socket)}
    remedy = f"continue it: kill -CONT {' '.join(stopped)}; or ./firstlight provision" if stopped else RESTART
    if strangers:
        remedy = f"end the processes that hold the port: kill {' '.join(sorted(strangers))}; then ./firstlight serve"
    remedies = {"fail": remedy, "warn": ANEW if facts.listeners else "check again when it answers"}
    found = [Observation(status, text, remedies[status]) for part in parts for status, text in part(planned, facts)]
    evidence = {
        "processes": {one.pid: one.title for one in facts.processes},
        "listens": [f"{one.address} port {facts.port}" for one in facts.listeners],
        "answers verified since this start": facts.proven,
        "problems": [problem.text for problem in found],
    }
    figures = (Figure("processes", len(facts.processes), "count"), Figure("runs for", facts.age_s, "s"))
    who = f"{facts.main.title} and {len(facts.processes) - 1} descendants"
    since = "" if facts.proven else "; restarted since its answers were verified"
    return combine(found, f"{who} run as planned, from this environment's files{since}", figures, evidence)


def _listening(planned: ServicePlan, facts: ProcessFacts) -> Problems:
    for socket in facts.listeners:
        strangers = " and ".join(process.title for process in facts.strangers(socket))
        if strangers:
            yield "fail", f"port {facts.port} is held by {strangers}, which {planned.name} did not start"
        elif not socket.holders:
            yield "fail", f"port {facts.port} on {socket.address} is held by a process that is not {planned.name}'s"
    if not facts.listeners and facts.age_s > table("process")["start"]["limit_s"]:
        yield "fail", f"nothing listens on port {facts.port}, {facts.age_s:.0f} s after {planned.name} was started"
    elif not facts.listeners:
        text = f"{planned.name} was started {facts.age_s:.0f} s ago and does not listen on port {facts.port} yet"
        yield "warn", text
    for one in facts.processes:
        if one.state == STOPPED:
            yield "fail", f"{one.title} is stopped by a signal (state {one.state})"


def _command(planned: ServicePlan, facts: ProcessFacts) -> Problems:
    """Compare the server's program and arguments. Options are reported by name, without their values."""
    main, wanted = facts.main, planned.argv
    if main.executable.removesuffix(DELETED) != facts.interpreter:
        program = main.executable or "an unknown program"
        yield "fail", f"{main.title} runs {program}, not the environment's {facts.interpreter}"
    # A script of the environment runs as `python script`; the interpreter is compared above.
    words = main.argv[1:] if main.argv[1:2] == wanted[:1] else main.argv
    if words != wanted:
        then, now = _options(wanted), _options(words)
        other = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        details = ", ".join(other) or "the order of its arguments"
        yield "fail", f"its command is not the planned one: {details} differs"


def _options(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the arguments of a command by the option before them."""
    found: dict[str, list[str]] = {}
    name = "its program"
    for word in words:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found.setdefault(name, [])
            found[name] += [value] if value else []
        else:
            found.setdefault(name, []).append(word)
    return found


def _variables(planned: ServicePlan, facts: ProcessFacts) -> Problems:
    """Compare variables. Loader variables of a worker may name files of the environment, because vLLM sets them."""
    own = (*facts.homes, *table("process")["files"]["system"])
    for process in facts.processes:
        here = process.environment
        unplanned = sorted(name for name in here if name not in planned.environment and name != NAME_OF_KEY)
        injecting = [name for name in unplanned if _matches(name, "injecting")]
        if process.pid == facts.main_pid and here:
            other = sorted(name for name, value in planned.environment.items() if here.get(name) != str(value))
            if other:
                yield "fail", f"variables of {process.title} differ from the plan: {', '.join(other)}"
            if planned.api_key and here.get(NAME_OF_KEY) != facts.key:
                yield "fail", f"{process.title} does not have the API key of etc/service.env"
            computing = [name for name in unplanned if name not in injecting and _matches(name, "computing")]
            if computing:
                yield "warn", f"{process.title} has unplanned variables: {', '.join(computing)}"
        else:
            paths = {name: here[name].replace(" ", ":").split(":") for name in injecting}
            injecting = [
                name for name in injecting if not all(f"{path}/".startswith(own) for path in paths[name] if path)
            ]
        if injecting:
            yield "fail", f"{process.title} loads unplanned code, by {', '.join(injecting)}"


def _matches(name: str, kind: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in table("process")["variables"][kind])


def _code(_: ServicePlan, facts: ProcessFacts) -> Problems:
    """Fail on mapped code of foreign files and of replaced ones; warn of replaced files of the system."""
    files = table("process")["files"]
    own, system, nameless = facts.homes, tuple(files["system"]), tuple(files["nameless"])
    for process in facts.processes:
        code = sorted(path for path in process.mapped if not path.startswith(nameless))
        foreign = [path for path in code if not path.startswith((*own, *system))]
        gone = [path for path in code if path.endswith(DELETED) and path not in foreign]
        replaced = [path for path in gone if path.startswith(own) and not path.startswith(system)]
        if foreign:
            yield "fail", f"{process.title} runs code from outside the environment: {_few(foreign)}"
        if replaced:
            yield "fail", f"{process.title} runs files that were replaced since it started: {_few(replaced)}"
        elif gone:
            yield "warn", f"{process.title} runs files of the system that were replaced since it started: {_few(gone)}"


def _few(paths: Sequence[str]) -> str:
    return first_few([path.removesuffix(DELETED) for path in paths], 2, separator=", ")


def _status(planned: ServicePlan, facts: ProcessFacts) -> Problems:
    """Compare account and restrictions with what the kernel reports."""
    directives = planned.directives()
    wanted: dict[str, str] = {}
    for directive, lines in table("process")["status"].items():
        if directive in directives:
            wanted |= lines.get(directives[directive][-1], lines.get("any", {}))
    if "UMask" in directives:
        wanted["Umask"] = directives["UMask"][-1]
    for process in facts.processes:
        status = process.status
        other = [f"{name} {status[name]}" for name, value in wanted.items() if status.get(name, value) != value]
        accounts = set(status.get("Uid", "").split())
        if facts.uid is not None and accounts - {str(facts.uid)}:
            other.append(f"user {', '.join(sorted(accounts))} instead of {facts.uid}")
        if other:
            yield "fail", f"{process.title} runs with {', '.join(other)}, which the unit does not allow"


def _limits(planned: ServicePlan, facts: ProcessFacts) -> Problems:
    """Compare resource limits. A supervisor cannot grant more than its own limits, which is no fault of the service."""
    directives, main = planned.directives(), facts.main
    for directive, name in table("process")["limits"].items():
        if directive in directives and name in main.limits:
            given = directives[directive][-1]
            wanted = min(_number(given), _number(facts.highest.get(name, "unlimited")))
            if _number(main.limits[name]) < wanted:
                yield "fail", f"{name.lower()} of {main.title}: {main.limits[name]}, planned {given}"


def _scheduling(planned: ServicePlan, facts: ProcessFacts) -> Problems:
    """Compare policy, niceness, the kernel's choice when memory runs out, and processors with the unit's, otherwise with the manager's.

    The engine binds its threads to processors itself, so the processors of the server alone are compared, and not with a unit
    that names some. A user's manager gives its units
    another adjustment for the lack of memory than its own.
    """
    rows, directives = table("process")["scheduling"], planned.directives()
    wanted = {name: value for name, value in facts.manager.items() if name != "oom" or planned.supervisor == "systemd"}
    for name, row in rows.items():
        if given := directives.get(row["directive"]):
            wanted[name] = "" if name == "cpus" else row.get("values", {}).get(given[-1], given[-1])
    for process in facts.processes:
        other = [
            f"{row['title']} {now} instead of {wanted[name]}"
            for name, row in rows.items()
            if wanted.get(name) and (now := process.scheduling.get(name)) and now != wanted[name]
            if name != "cpus" or process.pid == facts.main_pid
        ]
        if other:
            yield "fail", f"{process.title} has {', '.join(other)}"


def _number(value: str) -> float:
    return math.inf if value in ("infinity", "unlimited") else float(value)


def _attention(_: ServicePlan, facts: ProcessFacts) -> Problems:
    """Require that as many engine processes as planned have layers of the planned back end, once they listen."""
    holding = [note for note in facts.notes if note.get("layers")] if facts.listeners else []
    asked, count = _canonical(facts.readiness["asked"]), facts.readiness["processes"]
    held = Counter(_canonical(layer["backend"]) for note in holding for layer in note["layers"])
    other = [f"{number} use {name}" for name, number in held.items() if name != asked]
    if facts.listeners and len(holding) < count:
        yield "fail", f"{len(holding)} of {count} engine processes report the attention of their layers"
    elif other:
        yield "fail", f"of {held.total()} attention layers {', '.join(other)}, planned {asked}"


def _canonical(backend: str | None) -> str:
    """Return one name per back end: vLLM 0.8 to 0.10 append the engine's generation."""
    return (backend or "unknown").removesuffix("_VLLM_V1")

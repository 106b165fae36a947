"""serving.process: the service's processes compared with the plan. Differences are texts without secrets."""

import math
import os
import pwd
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from verify.binaries.cuda_compat import compat_folder
from verify.binaries.distributions import host_packages
from verify.records import CheckContext, CheckResult, Figure, first_few
from verify.serving import service_plan
from verify.serving.drain import stopped_by
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
from verify.serving.service_control import ControlError, ServiceState, observe
from verify.serving.service_plan import ServicePlan
from verify.tables import table

ANEW = "./firstlight stop, then ./firstlight serve restart it"
DELETED = " (deleted)"
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


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate(*_with_stranger())
    planned = service_plan.read(service)
    try:
        state = observe(service)
    except ControlError as error:
        return CheckResult("error", f"cannot read the state of the service: {error}")
    facts = collect(service, planned, state.main_pid, context.stack)
    return _without_it(service, planned, state) if facts is None else evaluate(planned, facts)


def _with_stranger() -> tuple[ServicePlan, ProcessFacts]:
    """Return a service that is as planned but for a stranger on its port, the injected fault."""
    server = Process(7, 1, argv=("/e/bin/python", "/v", "serve"), executable="/usr/bin/python3")
    stranger = Process(66, 1, argv=("python3", "-m", "http.server"))
    unit = "[Service]\nExecStart=/v serve\n"
    return ServicePlan("systemd", "firstlight-vllm.service", unit, api_key=False), ProcessFacts(
        7,
        (server,),
        (ListeningSocket("127.0.0.1", "9", (stranger,)),),
        interpreter=server.executable,
        readiness={"processes": 1, "asked": "CPU_ATTN"},
        notes=({"layers": [{"backend": "CPU_ATTN"}]},),
    )


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
        notes=attention_notes(service, processes),
        proven=proves_start(service, main),
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
        remedy = ANEW if listens else "check again when it answers"
        return CheckResult("warn", first_few(warnings, 3, more="; and"), figures, evidence, remedy)
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


def command_problems(planned: ServicePlan, main: Process, interpreter: str) -> list[str]:
    """Compare the server's program and arguments. Options are reported by name, without their values."""
    found = []
    if main.executable.removesuffix(DELETED) != interpreter:
        found.append(
            f"{main.title} runs {main.executable or 'an unknown program'}, not the environment's {interpreter}"
        )
    wanted = planned.argv
    # A script of the environment runs as `python script`; the interpreter is compared above.
    words = main.argv[1:] if main.argv[1:2] == wanted[:1] else main.argv
    if words != wanted:
        then, now = _options(wanted), _options(words)
        other = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        found.append(f"its command is not the planned one: {', '.join(other) or 'the order of its arguments'} differs")
    return found


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


def variable_problems(
    planned: ServicePlan, processes: Iterable[Process], main_pid: int, homes: Sequence[str], key: str | None
) -> tuple[list[str], list[str]]:
    """Return failures and warnings. Loader variables of a worker may name files of the environment, because vLLM sets them."""
    failures, warnings = list[str](), list[str]()
    for process in processes:
        here = process.environment
        unplanned = sorted(name for name in here if name not in planned.environment and name != NAME_OF_KEY)
        injecting = [name for name in unplanned if _matches(name, "injecting")]
        if process.pid == main_pid and here:
            other = sorted(name for name, value in planned.environment.items() if here.get(name) != str(value))
            if other:
                failures.append(f"variables of {process.title} differ from the plan: {', '.join(other)}")
            if planned.api_key and here.get(NAME_OF_KEY) != key:
                failures.append(f"{process.title} does not have the API key of etc/service.env")
            computing = [name for name in unplanned if name not in injecting and _matches(name, "computing")]
            if computing:
                warnings.append(f"{process.title} has unplanned variables: {', '.join(computing)}")
        else:
            own = (*homes, *table("process")["files"]["system"])
            paths = {name: here[name].replace(" ", ":").split(":") for name in injecting}
            injecting = [
                name for name in injecting if not all(f"{path}/".startswith(own) for path in paths[name] if path)
            ]
        if injecting:
            failures.append(f"{process.title} loads unplanned code, by {', '.join(injecting)}")
    return failures, warnings


def _matches(name: str, kind: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in table("process")["variables"][kind])


def code_problems(processes: Iterable[Process], homes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return failures (foreign files) and warnings (files that are no longer on the disk) about mapped code."""
    files = table("process")["files"]
    failures, warnings = list[str](), list[str]()
    own, system, nameless = tuple(homes), tuple(files["system"]), tuple(files["nameless"])
    for process in processes:
        code = sorted(path for path in process.mapped if not path.startswith(nameless))
        foreign = [path for path in code if not path.startswith((*own, *system))]
        gone = [path for path in code if path.endswith(DELETED) and path not in foreign]
        replaced = [path for path in gone if path.startswith(own) and not path.startswith(system)]
        if foreign:
            failures.append(f"{process.title} runs code from outside the environment: {_few(foreign)}")
        if replaced:
            failures.append(f"{process.title} runs files that were replaced since it started: {_few(replaced)}")
        elif gone:
            warnings.append(
                f"{process.title} runs files of the system that were replaced since it started: {_few(gone)}"
            )
    return failures, warnings


def _few(paths: Sequence[str]) -> str:
    return first_few([path.removesuffix(DELETED) for path in paths], 2, separator=", ")


def status_problems(planned: ServicePlan, processes: Iterable[Process], uid: int | None) -> list[str]:
    """Compare account and restrictions with what the kernel reports."""
    directives = planned.directives()
    wanted: dict[str, str] = {}
    for directive, lines in table("process")["status"].items():
        if directive in directives:
            wanted |= lines.get(directives[directive][-1], lines.get("any", {}))
    if "UMask" in directives:
        wanted["Umask"] = directives["UMask"][-1]
    found = []
    for process in processes:
        status = process.status
        other = [f"{name} {status[name]}" for name, value in wanted.items() if status.get(name, value) != value]
        accounts = set(status.get("Uid", "").split())
        if uid is not None and accounts - {str(uid)}:
            other.append(f"user {', '.join(sorted(accounts))} instead of {uid}")
        if other:
            found.append(f"{process.title} runs with {', '.join(other)}, which the unit does not allow")
    return found


def limit_problems(planned: ServicePlan, main: Process, highest: Mapping[str, str]) -> list[str]:
    """Compare resource limits. A supervisor cannot grant more than its own limits, which is no fault of the service."""
    directives, found = planned.directives(), []
    for directive, name in table("process")["limits"].items():
        if directive in directives and name in main.limits:
            wanted = min(_number(directives[directive][-1]), _number(highest.get(name, "unlimited")))
            if _number(main.limits[name]) < wanted:
                found.append(
                    f"{name.lower()} of {main.title}: {main.limits[name]}, planned {directives[directive][-1]}"
                )
    return found


def scheduling_problems(
    planned: ServicePlan, processes: Iterable[Process], main_pid: int, manager: Mapping[str, str]
) -> list[str]:
    """Compare policy, niceness, the kernel's choice when memory runs out, and processors with the unit's, otherwise with the manager's.

    The engine binds its threads to processors itself, so the processors of the server alone are compared. A user's manager gives its units
    another adjustment for the lack of memory than its own.
    """
    rows, directives, found = table("process")["scheduling"], planned.directives(), []
    for process in processes:
        other = []
        for name, row in rows.items():
            given = directives.get(row["directive"])
            wanted = row.get("values", {}).get(given[-1], given[-1]) if given else manager.get(name)
            inherited = name != "oom" or given or planned.supervisor == "systemd"
            compared = inherited and (name != "cpus" or (process.pid == main_pid and not given))
            now = process.scheduling.get(name)
            if compared and wanted and now and now != wanted:
                other.append(f"{row['title']} {now} instead of {wanted}")
        if other:
            found.append(f"{process.title} has {', '.join(other)}")
    return found


def _number(value: str) -> float:
    return math.inf if value in ("infinity", "unlimited") else float(value)


def attention_problems(notes: Iterable[Mapping[str, Any]], readiness: Mapping[str, Any]) -> list[str]:
    """Return whether as many engine processes as planned have layers of the planned back end."""
    holding = [note for note in notes if note.get("layers")]
    asked = _canonical(readiness["asked"])
    held = Counter(_canonical(layer["backend"]) for note in holding for layer in note["layers"])
    if len(holding) < readiness["processes"]:
        return [f"{len(holding)} of {readiness['processes']} engine processes report the attention of their layers"]
    other = [f"{number} use {name}" for name, number in held.items() if name != asked]
    return [f"of {held.total()} attention layers {', '.join(other)}, planned {asked}"] if other else []


def _canonical(backend: str | None) -> str:
    """Return one name per back end: vLLM 0.8 to 0.10 append the engine's generation."""
    return (backend or "unknown").removesuffix("_VLLM_V1")

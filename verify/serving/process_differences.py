"""Differences between a service's processes and its plan, as texts without secrets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from verify.records import first_few
from verify.serving.processes import Process
from verify.serving.service import KEY
from verify.serving.service_plan import ServicePlan
from verify.tables import table

DELETED = " (deleted)"
NAME_OF_KEY = KEY.rstrip("=")


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
            injecting = [name for name in injecting if not _of_homes(here[name], homes)]
        if injecting:
            failures.append(f"{process.title} loads unplanned code, by {', '.join(injecting)}")
    return failures, warnings


def _matches(name: str, kind: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in table("process")["variables"][kind])


def _of_homes(value: str, homes: Sequence[str]) -> bool:
    folders = (*homes, *table("process")["files"]["system"])
    return all(f"{path}/".startswith(folders) for path in value.replace(" ", ":").split(":") if path)


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

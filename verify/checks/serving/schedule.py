"""serving.schedule: a dry look at what stops the service later, and at whether the next boot starts it.

What stops it: units that conflict with it, timers, scheduled commands, rules that delete its files, and a planned shutdown.
"""

import os
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from verify.files import small_text
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving import service_control, service_plan
from verify.serving.service import Service
from verify.serving.service_control import Units
from verify.serving.service_plan import ServicePlan
from verify.serving.unit_differences import ARGV
from verify.tables import table

BOOT = "reboot into the former target: systemctl set-default multi-user.target"
LINGER = "let the account's manager start at boot: loginctl enable-linger"
REMOVE = "find its owner, and remove it or limit it to other services; then check again: ./firstlight verify"
Read = Callable[[str], str]
"""Returns the text of a script; empty for other files."""


@dataclass(frozen=True)
class ScheduleFacts:
    """Observations on the host."""

    loaded: Units = field(default_factory=dict)
    default: str = "multi-user.target"
    """The target of the next boot."""
    cron: Mapping[str, str] = field(default_factory=dict)
    """Files of scheduled commands, with their text; a script's is its path."""
    shutdown: str = ""
    """logind's record of a planned shutdown."""
    lingers: bool = True
    """Whether the service's manager starts at boot."""
    own: tuple[str, ...] = ()
    """Units of this product."""
    tmpfiles: Mapping[str, str] = field(default_factory=dict)
    """Files of tmpfiles.d(5), with their text."""
    folders: tuple[str, ...] = ("/opt/firstlight",)
    """What the service needs: the installation, and the folder of its model."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        planned = ServicePlan("systemd", "firstlight-vllm.service", "[Install]\nWantedBy=multi-user.target\n")
        return evaluate(planned, ScheduleFacts({"x.service": {"Id": "x.service", "Conflicts": planned.name}}))
    planned = service_plan.read(service)
    if planned.unit is None:
        text = "the service has no unit: its supervisor does not start at boot, and knows no timers"
        return CheckResult("skip", text)
    return evaluate(planned, collect(service, planned))


def collect(service: Service, planned: ServicePlan) -> ScheduleFacts:
    """Ask systemd for all loaded units, and read the files of scheduled commands. Raises ControlError."""
    rows = table("schedule")
    tables, scripts = (
        sorted(str(path) for pattern in rows["cron"][kind] for path in Path("/").glob(pattern[1:]))
        for kind in ("tables", "scripts")
    )
    rules = sorted(str(path) for pattern in rows["tmpfiles"]["files"] for path in Path("/").glob(pattern[1:]))
    account = pwd.getpwuid(os.getuid()).pw_name
    return ScheduleFacts(
        service_control.shown_units(service, rows["properties"]),
        service_control.default_target(service),
        {path: text for path in tables if (text := small_text(path))} | {path: path for path in scripts},
        small_text(rows["shutdown"]["file"]),
        planned.supervisor == "systemd" or (Path(rows["boot"]["linger"]) / account).exists(),
        tuple(Path(line).name for line in small_text(str(service.prefix / "etc" / "units")).split()),
        {path: small_text(path) for path in rules},
        tuple({str(service.prefix), os.path.realpath(service.readiness["model_folder"])}),
    )


def evaluate(planned: ServicePlan, facts: ScheduleFacts) -> CheckResult:
    """Fail where the next boot does not start the service; warn of what stops it, which an administrator may have intended."""
    name, wanted = planned.name, planned.directives().get("WantedBy", [])
    stops = [*conflicts(name, facts.loaded)]
    stops += timers(name, facts.loaded, small_text, facts.own)
    stops += commands(name, facts.cron, small_text)
    stops += cleared(facts.folders, facts.tmpfiles)
    stops += filter(None, [shutdown(facts.shutdown)])
    count = sum(unit.endswith(".timer") for unit in facts.loaded)
    figures = (Figure("timers", count, "count"), Figure("files of scheduled commands", len(facts.cron), "count"))
    evidence = {"target of the next boot": facts.default, "stops": stops}
    found = [Observation("warn", text, REMOVE) for text in stops]
    if not facts.lingers:
        found.append(Observation("fail", "the next boot does not start it: its account does not linger", LINGER))
    if wanted and not any(is_reached(target, facts.default, facts.loaded) for target in wanted):
        text = f"the next boot does not start it: it ends in {facts.default}, which does not start {wanted[-1]}"
        found.append(Observation("fail", text, BOOT))
    healthy = f"the next boot starts it in {facts.default}; none of {count} timers and {len(facts.cron)} files of commands stops it"
    return combine(found, healthy, figures, evidence)


def conflicts(name: str, loaded: Units) -> Iterator[str]:
    """Yield units whose start stops a unit."""
    for other, unit in loaded.items():
        if (
            other == unit.get("Id")
            and other not in ("shutdown.target", name)
            and name in unit.get("Conflicts", "").split()
        ):
            yield f"{other} conflicts with it: a start of either one stops the other one"


def timers(name: str, loaded: Units, read: Read, own: Iterable[str]) -> Iterator[str]:
    """Yield active timers that start something which stops a unit; `own` are the units of this product."""
    for timer, unit in loaded.items():
        target = unit.get("Unit", "")
        if not timer.endswith(".timer") or unit.get("ActiveState") != "active" or target in own:
            continue
        for command in ARGV.findall(loaded.get(target, {}).get("ExecStart", "")):
            if line := stopping(name, command, read):
                when = unit.get("NextElapseUSecRealtime")
                yield f"{timer} starts {target}{f' at {when}' if when else ''}, which runs `{line}`"


def commands(name: str, files: Mapping[str, str], read: Read) -> Iterator[str]:
    """Yield lines of files of scheduled commands that stop a unit."""
    for path, text in files.items():
        for line in text.splitlines():
            if not line.lstrip().startswith("#") and (found := stopping(name, line, read)):
                yield f"{path} runs `{found}`"


def stopping(name: str, command: str, read: Read) -> str | None:
    """Return the command, or the line of a script that it names, which stops a unit; None without one."""
    rows = table("schedule")["command"]
    named = re.compile(rows["named"].replace("NAME", re.escape(name.rpartition(".")[0])))

    def stops(line: str) -> bool:
        return bool(named.search(line) and re.search(rows["verb"], line))

    if stops(command) or re.search(rows["host"], command):
        return command.strip()
    for word in command.split():
        if word.startswith("/"):
            for line in read(word).splitlines():
                if stops(line) and not line.lstrip().startswith("#"):
                    return f"{word}: {line.strip()}"
    return None


def cleared(folders: Iterable[str], files: Mapping[str, str]) -> Iterator[str]:
    """Yield lines of tmpfiles.d(5) that delete what is in a folder, at boot or by its age."""
    rows = table("schedule")["tmpfiles"]
    for path, text in files.items():
        for line in text.splitlines():
            kind, place, *rest = (*line.split(), "", "")[:6]
            has_age = len(rest) == 4 and rest[3] not in ("", "-")
            if kind[:1] and (kind[0] in rows["deleting"] or (kind[0] in rows["cleaning"] and has_age)):
                for folder in folders:
                    above = (Path(folder), *Path(folder).parents)
                    if place.startswith(f"{folder}/") or any(fnmatchcase(str(one), place) for one in above):
                        yield f"{path} deletes files of {folder}: `{line.strip()}`"


def shutdown(record: str) -> str | None:
    """Return the planned shutdown of logind's record; None without one."""
    fields = dict(line.partition("=")[::2] for line in record.splitlines())
    if not fields.get("USEC", "").isdigit():
        return None
    at = datetime.fromtimestamp(int(fields["USEC"]) / 1e6, timezone.utc)
    return f"the host has a planned {fields.get('MODE', 'shutdown')} at {at:%Y-%m-%d %H:%M:%S} UTC"


def is_reached(target: str, default: str, loaded: Units) -> bool:
    """Return whether the start of a target starts another one."""
    seen, left = set[str](), [default]
    while left:
        unit = left.pop()
        if unit == target:
            return True
        if unit not in seen:
            seen.add(unit)
            left += " ".join(loaded.get(unit, {}).get(kind, "") for kind in ("Requires", "Wants")).split()
    return False

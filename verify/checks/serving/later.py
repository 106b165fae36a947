"""serving.schedule: a dry look at what stops the service later, and at whether the next boot starts it. serving.start: what a start would find now.

What stops it: units that conflict with it, timers, scheduled commands, and rules that delete its files. A start finds
variables, libraries, folders and names. Nothing is restarted.
"""

import os
import pwd
import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from verify.binaries.distributions import site_files
from verify.files import printed, small_text
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving import service_control, service_plan
from verify.serving.service import Service
from verify.serving.service_control import Units
from verify.serving.service_plan import ARGV, ServicePlan
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
    lingers: bool = True
    """Whether the service's manager starts at boot."""
    own: tuple[str, ...] = ()
    """Units of this product."""
    tmpfiles: Mapping[str, str] = field(default_factory=dict)
    """Files of tmpfiles.d(5), with their text."""
    folders: tuple[str, ...] = ("/opt/firstlight",)
    """What the service needs: the installation, and the folder of its model."""


def schedule(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        planned = ServicePlan("systemd", "firstlight-vllm.service", "[Install]\nWantedBy=multi-user.target\n")
        return evaluate_schedule(planned, ScheduleFacts({"x.service": {"Id": "x.service", "Conflicts": planned.name}}))
    planned = service_plan.read(service)
    if planned.unit is None:
        text = "the service has no unit: its supervisor does not start at boot, and knows no timers"
        return CheckResult("skip", text)
    return evaluate_schedule(planned, collect_schedule(service, planned))


def collect_schedule(service: Service, planned: ServicePlan) -> ScheduleFacts:
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
        planned.supervisor == "systemd" or (Path(rows["boot"]["linger"]) / account).exists(),
        tuple(Path(line).name for line in small_text(str(service.prefix / "etc" / "units")).split()),
        {path: small_text(path) for path in rules},
        tuple({str(service.prefix), os.path.realpath(service.readiness["model_folder"])}),
    )


def evaluate_schedule(planned: ServicePlan, facts: ScheduleFacts) -> CheckResult:
    """Fail where the next boot does not start the service; warn of what stops it, which an administrator may have intended."""
    name, wanted = planned.name, planned.directives().get("WantedBy", [])
    stops = [*conflicts(name, facts.loaded)]
    stops += timers(name, facts.loaded, small_text, facts.own)
    stops += commands(name, facts.cron, small_text)
    stops += cleared(facts.folders, facts.tmpfiles)
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
        is_other = other == unit.get("Id") and other not in ("shutdown.target", name)
        if is_other and name in unit.get("Conflicts", "").split():
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


MISSING = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)
CACHED = re.compile(r"^\s*(\S+) \([^)]*\) => (/.*)$", re.MULTILINE)
REMEDY = (
    "put right what is named; a running server keeps what it found at its start. Then check again: ./firstlight verify"
)


@dataclass(frozen=True)
class StartFacts:
    """Observations on the host."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the manager gives to what it starts."""
    loader: Mapping[str, str] = field(default_factory=dict)
    """The loader's answer for each file of the environment, as the service's account gets it."""
    bundled: frozenset[str] = frozenset()
    """Names of libraries in the environment."""
    cache: str = ""
    """The loader's cache: `ldconfig -p`."""
    owned: tuple[str, ...] = ()
    """Folders and files that the service has to write, and cannot."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses of the names `localhost` and the host's own that are not this host's."""


def start(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        planned = ServicePlan("systemd", "firstlight-vllm.service", "[Service]\n")
        return evaluate_start(planned, StartFacts(environment={"LD_LIBRARY_PATH": "/srv/lib"}))
    planned = service_plan.read(service)
    try:
        return evaluate_start(planned, collect_start(service, planned))
    except KeyError:
        return CheckResult("fail", f"there is no account {planned.user}, as which the service starts", remedy=REMEDY)


def collect_start(service: Service, planned: ServicePlan) -> StartFacts:
    """Ask manager, loader and resolver. Raises ControlError, and KeyError without the service's account."""
    rows = table("start")["libraries"]
    account = pwd.getpwnam(planned.user) if planned.user else pwd.getpwuid(os.getuid())
    given = service_control.manager_environment(service) if planned.unit else {}
    variables = {**given, **{name: str(value) for name, value in planned.environment.items()}}
    return StartFacts(
        given,
        {str(path): _answer(["ldd", str(path)], account, variables) for path in site_files(rows["files"])},
        frozenset(path.name for path in site_files(rows["bundled"])),
        _answer([shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ldconfig", "-p"], account, {}),
        (*_not_owned(service.prefix, planned, account.pw_uid), *_shared_memory(account.pw_uid)),
        {name: found for name in ("localhost", socket.gethostname()) if (found := tuple(_elsewhere(name)))},
    )


def _answer(command: list[str], account: pwd.struct_passwd, variables: Mapping[str, str]) -> str:
    """Return what a command prints for an account; empty where it cannot be run."""
    as_account: dict[str, Any] = {}
    if os.getuid() == 0 and account.pw_uid != 0:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        as_account = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    environment = {"PATH": os.defpath, **variables, "LC_ALL": "C"}
    limit_s = table("start")["libraries"]["limit_s"]
    return printed(command, limit_s=limit_s, cwd="/", env=environment, **as_account) or ""


def _not_owned(prefix: Path, planned: ServicePlan, uid: int) -> Iterator[str]:
    """Yield what the service writes and another account owns, or what has no free space. Logs and supervisord's own files are root's."""
    # Earlier releases of this product left the PID and the mark of a drain there.
    of_root = {f"{prefix}/run/{name}" for name in ("supervisord.pid", "supervisor.sock", "drained.json")}
    named = " ".join(planned.directives().get("ReadWritePaths", [])).split()
    for top in (*(named or (f"{prefix}/cache", f"{prefix}/run")), f"{prefix}/home"):
        if top == str(prefix / "logs"):
            continue
        if not os.path.isdir(top):  # noqa: PTH112 - as below
            yield f"{top} is gone"
            continue
        rows, disk = table("start")["folders"], os.statvfs(top)
        if disk.f_flag & os.ST_RDONLY:
            yield f"{top} is on a file system that is mounted read-only"
        if disk.f_bavail * disk.f_frsize < rows["free_bytes"] or (disk.f_files and disk.f_favail < rows["free_files"]):
            yield f"{top} has room for {disk.f_bavail * disk.f_frsize >> 20} MiB and {disk.f_favail} files"
        for above, _, names in os.walk(top):
            for path in (above, *(f"{above}/{name}" for name in names)):
                found = os.lstat(path)
                if found.st_uid != uid and path not in of_root:
                    yield f"{path} belongs to user {found.st_uid}, and the service runs as {uid}"


def _shared_memory(uid: int) -> Iterator[str]:
    """Yield why an account gets no shared memory."""
    shared = Path(table("start")["folders"]["shared"])
    if not shared.is_dir():
        yield f"{shared} is gone"
    elif uid != 0 and not shared.stat().st_mode & stat.S_IWOTH:
        yield f"{shared} can be written by root only"


def _elsewhere(name: str) -> Iterator[str]:
    """Yield addresses of a name that are not this host's. A name without an address hinders no server: hosts without /etc/hosts serve."""
    try:
        found = sorted({(family, str(address[0])) for family, _, _, _, address in socket.getaddrinfo(name, None)})
    except OSError:
        found = []
    for family, address in found:
        if name == "localhost" and not ip_address(address.partition("%")[0]).is_loopback:
            yield address
            continue
        with socket.socket(family) as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                if family == socket.AF_INET:  # a host without IPv6 may have IPv6 names
                    yield address


def evaluate_start(planned: ServicePlan, facts: StartFacts) -> CheckResult:
    """Fail on what keeps the service from its start, or has it load other code; warn of other differences."""
    failures = [f"the next start would get {name}={value}" for name, value in _variables(planned, facts, "injecting")]
    failures += [
        f"the loader does not find {name} for {path}"
        for path, answer in facts.loader.items()
        for name in MISSING.findall(answer)
        if name not in facts.bundled
    ]
    failures += facts.owned
    failures += [f"{name} is {', '.join(found)}, which is not this host" for name, found in facts.names.items()]
    warnings = [f"the next start would get {name}" for name, _ in _variables(planned, facts, "computing")]
    # Libraries of the system that the loader's cache has first in another place.
    rows, first = table("start")["libraries"], dict[str, str]()
    for name, path in CACHED.findall(facts.cache):
        first.setdefault(name, path)
    warnings += [
        f"the loader finds {name} at {first[name]}, outside the folders of the system"
        for name in rows["system"]
        if name in first and not first[name].startswith(tuple(rows["trusted"]))
    ]
    problems = [Observation("fail", text, REMEDY) for text in failures]
    problems += [Observation("warn", text, REMEDY) for text in warnings]
    figures = (Figure("files that the loader resolved", len(facts.loader), "count"),)
    evidence = {"variables of the manager": sorted(facts.environment), "problems": [*failures, *warnings][:100]}
    healthy = "a start would find its variables, libraries, folders and names as planned"
    return combine(problems, healthy, figures, evidence)


def _variables(planned: ServicePlan, facts: StartFacts, kind: str) -> Iterator[tuple[str, str]]:
    """Yield variables of the manager that are of a kind and not planned. Values of proxies may hold passwords."""
    rows = table("process")["variables"]
    proxies, others = (table("start")["variables"]["proxies"], rows["injecting"]) if kind == "computing" else ((), ())
    for name, value in sorted(facts.environment.items()):
        is_of_kind = any(fnmatchcase(name, each) for each in (*rows[kind], *proxies))
        if name not in planned.environment and is_of_kind and not any(fnmatchcase(name, each) for each in others):
            yield name, value

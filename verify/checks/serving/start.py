"""serving.start: what a start of the service would find now: variables, libraries, folders, names. Nothing is restarted."""

import os
import pwd
import re
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from verify.binaries.distributions import site_files
from verify.commands import printed
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving import service_control, service_plan
from verify.serving.service import Service
from verify.serving.service_plan import ServicePlan
from verify.tables import table

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


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        planned = ServicePlan("systemd", "firstlight-vllm.service", "[Service]\n")
        return evaluate(planned, StartFacts(environment={"LD_LIBRARY_PATH": "/srv/lib"}))
    planned = service_plan.read(service)
    try:
        return evaluate(planned, collect(service, planned))
    except KeyError:
        return CheckResult("fail", f"there is no account {planned.user}, as which the service starts", remedy=REMEDY)


def collect(service: Service, planned: ServicePlan) -> StartFacts:
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
    """Yield what the service writes and another account owns, or what has no room. Its logs belong to the supervisor, as do supervisord's own files."""
    of_supervisor = {f"{prefix}/run/supervisord.pid", f"{prefix}/run/supervisor.sock"}
    folders = " ".join(planned.directives().get("ReadWritePaths", [])).split() or [
        str(prefix / name) for name in ("cache", "run")
    ]
    for top in (*folders, str(prefix / "home")):
        if top == str(prefix / "logs"):
            continue
        if not os.path.isdir(top):  # noqa: PTH112 - as below
            yield f"{top} is gone"
            continue
        yield from _room(top)
        for above, _, names in os.walk(top):
            for path in (above, *(f"{above}/{name}" for name in names)):
                found = os.lstat(path)
                if found.st_uid != uid and path not in of_supervisor:
                    yield f"{path} belongs to user {found.st_uid}, and the service runs as {uid}"


def _room(folder: str) -> Iterator[str]:
    """Yield why a folder takes no files: its file system is read-only, or full."""
    rows, disk = table("start")["folders"], os.statvfs(folder)
    if disk.f_flag & os.ST_RDONLY:
        yield f"{folder} is on a file system that is mounted read-only"
    if disk.f_bavail * disk.f_frsize < rows["free_bytes"] or (disk.f_files and disk.f_favail < rows["free_files"]):
        yield f"{folder} has room for {disk.f_bavail * disk.f_frsize >> 20} MiB and {disk.f_favail} files"


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


def evaluate(planned: ServicePlan, facts: StartFacts) -> CheckResult:
    """Fail on what keeps the service from its start, or has it load other code; warn of other differences."""
    failures = [f"the next start would get {name}={value}" for name, value in _variables(planned, facts, "injecting")]
    failures += [f"the loader does not find {name} for {path}" for path, name in _missing(facts)]
    failures += facts.owned
    failures += [f"{name} is {', '.join(found)}, which is not this host" for name, found in facts.names.items()]
    warnings = [f"the next start would get {name}" for name, _ in _variables(planned, facts, "computing")]
    warnings += [
        f"the loader finds {name} at {path}, outside the folders of the system" for name, path in _foreign(facts)
    ]
    problems = [Observation("fail", text, REMEDY) for text in failures]
    problems += [Observation("warn", text, REMEDY) for text in warnings]
    figures = (Figure("files that the loader resolved", len(facts.loader), "count"),)
    evidence = {"variables of the manager": sorted(facts.environment), "problems": [*failures, *warnings][:100]}
    healthy = "a start would find its variables, libraries, folders and names as planned"
    return combine(problems, healthy, figures, evidence)


def _variables(planned: ServicePlan, facts: StartFacts, kind: str) -> Iterator[tuple[str, str]]:
    """Yield variables of the manager that are of a kind and not planned. Values of proxies may hold passwords."""
    patterns: list[str] = table("process")["variables"][kind]
    patterns = patterns + table("start")["variables"]["proxies"] if kind == "computing" else patterns
    injecting = table("process")["variables"]["injecting"]
    for name, value in sorted(facts.environment.items()):
        of_other = kind == "computing" and any(fnmatchcase(name, each) for each in injecting)
        if name not in planned.environment and not of_other and any(fnmatchcase(name, each) for each in patterns):
            yield name, value


def _missing(facts: StartFacts) -> Iterable[tuple[str, str]]:
    for path, answer in facts.loader.items():
        for name in MISSING.findall(answer):
            if name not in facts.bundled:
                yield path, name


def _foreign(facts: StartFacts) -> Iterable[tuple[str, str]]:
    """Yield libraries of the system that the loader's cache has first in another place."""
    rows, first = table("start")["libraries"], dict[str, str]()
    for name, path in CACHED.findall(facts.cache):
        first.setdefault(name, path)
    for name in rows["system"]:
        if name in first and not first[name].startswith(tuple(rows["trusted"])):
            yield name, first[name]

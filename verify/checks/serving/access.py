"""serving.access: address, unguarded routes, and file permissions of the service. serving.account: what its account may do besides the service."""

import grp
import ipaddress
import os
import pwd
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.binaries.distributions import version_key
from verify.files import printed, small_text
from verify.records import CheckContext, CheckResult, Figure, Observation, combine, first_few
from verify.serving import service_plan
from verify.serving.client import ANOTHER_KEY, Client, RequestError
from verify.serving.processes import STOPPED, listeners, read_all
from verify.serving.service import Service
from verify.serving.service_plan import ServicePlan
from verify.tables import table

REFUSED = 401
MIDDLEWARE = "firstlight_attention.access.RequireKey"
"""If the planned command names it, every route except /health needs the key."""
REMEDY = "./firstlight provision restores address, key and files"


@dataclass(frozen=True)
class AccessFacts:
    """Observations on the host."""

    addresses: tuple[str, ...]
    """Addresses on which it listens."""
    planned: frozenset[str]
    """The planned addresses, as numbers."""
    answers: Mapping[str, tuple[int, int]]
    """By guarded route: the status without a key, and with a wrong one."""
    with_key: int | None = 200
    """Status of a route with the right key, or without a key if none is planned."""
    files: tuple[str, ...] = ()
    """Problems of the installation's files."""


def access(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        facts = AccessFacts(("127.0.0.1",), frozenset({"127.0.0.1"}), {"POST /v1/completions": (200, 200)})
        return evaluate_access(ServicePlan("systemd", "firstlight-vllm.service"), facts)
    planned = service_plan.read(service)
    addresses = tuple(one.address for one in listeners(int(service.readiness["port"])))
    stopped = any(one.state == STOPPED for one in read_all(service.pids()))
    if not addresses or stopped:
        text = "a signal has stopped it: see serving.process" if stopped else "nothing listens: see serving.unit"
        return CheckResult("skip", text)
    try:
        version = (context.stack.get("vllm") or {}).get("version")
        return evaluate_access(planned, collect_access(service, planned, addresses, version))
    except RequestError as problem:
        text = f"cannot tell which routes need the key: {problem}"
        return CheckResult("error", text, remedy="see serving.answer for whether it computes")


def collect_access(
    service: Service, planned: ServicePlan, addresses: tuple[str, ...], version: str | None
) -> AccessFacts:
    """Request every known guarded route. Raises RequestError."""
    client = Client(service.endpoint, table("serving")["access"]["silence_s"], service.api_key())
    everywhere = MIDDLEWARE in (planned.unit or planned.config or "")
    prefixes = ("/",) if everywhere else guarded(version)
    known = table("serving")["access"]
    routes = [*known["routes"], *(known["unlisted"] if everywhere else ())]
    asked = [route for route in routes if route.partition(" ")[2].startswith(prefixes)]
    answers: dict[str, tuple[int, int]] = {}
    if planned.api_key:
        for route in asked:
            method, _, path = route.partition(" ")
            answers[route] = (client.status(method, path, None), client.status(method, path, ANOTHER_KEY))
    return AccessFacts(
        addresses,
        numbers(str(service.readiness["host"])),
        answers,
        client.status("GET", "/v1/models", client.key),
        tuple(file_problems(service.prefix)),
    )


def guarded(version: str | None) -> tuple[str, ...]:
    """Return the path prefixes that a release of vLLM guards; for an unknown release those of the newest."""
    rows = table("serving")["access"]["guarded"]
    here = None if version is None else version_key(version)[0]  # a candidate of a release has its routes
    return tuple(row["prefix"] for row in rows if here is None or version_key(row["since"])[0] <= here)


def numbers(host: str) -> frozenset[str]:
    """Return the address, or those of a name; empty if the name is unknown."""
    try:
        return frozenset(_plain(str(found[4][0])) for found in socket.getaddrinfo(host, None))
    except OSError:
        return frozenset()


def _plain(address: str) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def file_problems(prefix: Path) -> Iterable[str]:
    """Yield secrets that others may read, files that others may write, and files of other owners."""
    rows = table("serving")["access"]
    owners = {0, prefix.stat().st_uid}
    secrets = {service_plan.record_of(prefix), *(prefix / name for name in rows["secret"])}
    for path in sorted({prefix, *secrets, *(path for pattern in rows["own"] for path in prefix.glob(pattern))}):
        try:
            found = path.stat(follow_symlinks=path in secrets)
        except OSError as error:
            yield f"{path}: {error.strerror}"
            continue
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in owners:
            yield f"{path} belongs to user {found.st_uid}"
        if path in secrets and mode & 0o077:
            yield f"{path} has secrets, and others may read or write it (mode {mode:04o}, planned 0600)"
        elif mode & stat.S_IWOTH and not stat.S_ISLNK(found.st_mode):
            yield f"everybody may write {path} (mode {mode:04o})"


def evaluate_access(planned: ServicePlan, facts: AccessFacts) -> CheckResult:
    """Fail on every unplanned access."""
    problems = []
    strange = [address for address in map(_plain, facts.addresses) if facts.planned and address not in facts.planned]
    if strange:
        problems.append(f"it listens on {', '.join(strange)}, planned {', '.join(sorted(facts.planned))}")
    unguarded = {route: codes for route, codes in facts.answers.items() if set(codes) != {REFUSED}}
    if unguarded:
        route, codes = next(iter(unguarded.items()))
        text = f"{len(unguarded)} of {len(facts.answers)} guarded routes do not reject a request without the key"
        problems.append(f"{text}: {route} answers {codes[0]} without one, {codes[1]} with a wrong one")
    if facts.with_key != 200:
        how = "with the key of" if planned.api_key else "without a key; none is in"
        problems.append(f"/v1/models answers {facts.with_key} {how} etc/service.env")
    problems += facts.files
    evidence: dict[str, Any] = {
        "listens on": facts.addresses,
        "guarded routes": sorted(facts.answers),
        "problems": problems,
    }
    figures = (Figure("routes that need the key", len(facts.answers), "count"),)
    key = f"{len(facts.answers)} routes refuse a request without the key" if planned.api_key else "no key is planned"
    healthy = f"it listens on {', '.join(facts.addresses)} as planned; {key}; only the owner can read its secrets"
    return combine([Observation("fail", text, REMEDY) for text in problems], healthy, figures, evidence)


RESTORE_ACCOUNT = "./firstlight provision restores the account; take away sudo rights, groups, keys and passwords that somebody gave it"


@dataclass(frozen=True)
class AccountFacts:
    """Observations on the host."""

    name: str
    shell: str
    groups: tuple[str, ...] = ()
    sudo: str = ""
    """Output of `sudo -l` for the account; empty where there is no sudo."""
    password: str = "!"  # noqa: S105 - the mark of none
    """Second field of shadow(5)."""
    keys: tuple[str, ...] = ()
    """Files of keys that let somebody log in."""
    others: tuple[str, ...] = ()
    """Other accounts with its number."""


def account(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate_account(AccountFacts("firstlight", "/usr/sbin/nologin", groups=("sudo",)))
    user = service_plan.read(service).user
    if service.prefix.stat().st_uid != 0 or user is None:
        return CheckResult("skip", "the service runs as the account that installed it")
    try:
        return evaluate_account(collect_account(user, pwd.getpwnam(user)))
    except KeyError:
        return CheckResult("fail", f"there is no account {user}, as which the service starts", remedy=RESTORE_ACCOUNT)


def collect_account(name: str, entry: pwd.struct_passwd) -> AccountFacts:
    """Read an account's entries, groups, rights and keys."""
    rows = table("account")["account"]
    shadow = (line.split(":") for line in small_text("/etc/shadow").splitlines() if line.startswith(f"{name}:"))
    keys = (Path(entry.pw_dir) / ".ssh" / file for file in ("authorized_keys", "authorized_keys2"))
    return AccountFacts(
        name,
        entry.pw_shell,
        tuple(_group(number) for number in os.getgrouplist(name, entry.pw_gid)),
        printed([*rows["sudo"], name], limit_s=rows["limit_s"], env={**os.environ, "LC_ALL": "C"}) or "",
        next((fields[1] for fields in shadow), "!"),
        tuple(str(path) for path in keys if path.exists()),
        tuple(other.pw_name for other in pwd.getpwall() if other.pw_uid == entry.pw_uid and other.pw_name != name),
    )


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def evaluate_account(facts: AccountFacts) -> CheckResult:
    """Fail on everything by which somebody can become this account, or the account more than itself."""
    problems = list(_problems(facts))
    evidence = {"shell": facts.shell, "groups": facts.groups, "problems": problems}
    healthy = f"{facts.name} has no login, no sudo rights and no powerful group ({', '.join(facts.groups) or 'none'})"
    return combine([Observation("fail", text, RESTORE_ACCOUNT) for text in problems], healthy, (), evidence)


def _problems(facts: AccountFacts) -> Iterator[str]:
    rows = table("account")["account"]
    shell = facts.shell or "/bin/sh"  # passwd(5)
    if shell.rpartition("/")[2] not in rows["no_login"]:
        yield f"{facts.name} has the login shell {shell}"
    # `sudo -l` prints the commands below a line that ends with a colon, and one sentence where there are none.
    granted = facts.sudo.partition("may run the following commands")[2].splitlines()[1:]
    if rules := [line.strip() for line in granted if line.strip()]:
        yield f"{facts.name} may run commands by sudo: {first_few(rules, 2)}"
    if powerful := [group for group in facts.groups if group in rows["powerful"]]:
        yield f"{facts.name} is in group {', '.join(powerful)}"
    if facts.password and facts.password[0] not in "!*":
        yield f"{facts.name} has a password"
    if not facts.password:
        yield f"{facts.name} needs no password"
    if facts.keys:
        yield f"{facts.name} may log in with the keys of {', '.join(facts.keys)}"
    if facts.others:
        yield f"{', '.join(facts.others)} is the same account by another name"

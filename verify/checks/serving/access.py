"""serving.access: address, unguarded routes, and file permissions of the service."""

import ipaddress
import re
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.binaries.distributions import version_key
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving import service_plan
from verify.serving.client import ANOTHER_KEY, Client, RequestError
from verify.serving.processes import STOPPED, listeners, read_all
from verify.serving.service import Service
from verify.serving.service_plan import ServicePlan
from verify.tables import table

PARAMETER = re.compile(r"\{[^}]*\}")
METHODS = ("get", "post", "put", "patch", "delete")
REFUSED = 401
MIDDLEWARE = "firstlight_attention.access.RequireKey"
"""If the planned command names it, every route except those of `FREE` needs the key."""
FREE = ("GET /health", "HEAD /health")
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
    open: tuple[str, ...] = ()
    """Routes that this release of vLLM leaves open."""
    files: tuple[str, ...] = ()
    """Problems of the installation's files."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        facts = AccessFacts(("127.0.0.1",), frozenset({"127.0.0.1"}), {"POST /v1/completions": (200, 200)})
        return evaluate(ServicePlan("systemd", "firstlight-vllm.service"), facts)
    planned = service_plan.read(service)
    addresses = tuple(one.address for one in listeners(int(service.readiness["port"]), ()))
    stopped = any(one.state in STOPPED for one in read_all(service.pids()))
    if not addresses or stopped:
        text = "a signal has stopped it: see serving.process" if stopped else "nothing listens: see serving.unit"
        return CheckResult("skip", text)
    try:
        version = (context.stack.get("vllm") or {}).get("version")
        return evaluate(planned, collect(service, planned, addresses, version, whole=context.includes("full")))
    except RequestError as problem:
        text = f"cannot tell which routes need the key: {problem}"
        return CheckResult("error", text, remedy="see serving.answer for whether it computes")


def collect(
    service: Service, planned: ServicePlan, addresses: tuple[str, ...], version: str | None, *, whole: bool
) -> AccessFacts:
    """Request every known guarded route, or with `whole` those that the server lists. Raises RequestError."""
    client = Client(service.endpoint, table("serving")["access"]["silence_s"], service.api_key())
    everywhere = MIDDLEWARE in (planned.unit or planned.config or "")
    prefixes, free = (("/",), FREE) if everywhere else (guarded(version), ())
    routes = [*(listed(client) if whole else table("serving")["access"]["routes"])]
    routes += table("serving")["access"]["unlisted"] if everywhere else ()
    asked = [route for route in routes if route.partition(" ")[2].startswith(prefixes) and route not in free]
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
        tuple(route for route in routes if whole and route not in asked),
        tuple(file_problems(service.prefix)),
    )


def guarded(version: str | None) -> tuple[str, ...]:
    """Return the path prefixes that a release of vLLM guards; for an unknown release those of the newest."""
    rows = table("serving")["access"]["guarded"]
    return tuple(row["prefix"] for row in rows if version is None or _release(row["since"]) <= _release(version))


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers: a candidate of a release has its routes."""
    return version_key(version)[0]


def listed(client: Client) -> list[str]:
    """Return the server's own list of routes as `METHOD /path`, otherwise the known ones. Raises RequestError."""
    try:
        paths = client.get("/openapi.json")["paths"]
    except RequestError as problem:
        if "status 404" not in str(problem):
            raise
        return list(table("serving")["access"]["routes"])
    return [
        f"{method.upper()} {PARAMETER.sub('none', path)}"
        for path, methods in sorted(paths.items())
        for method in methods
        if method in METHODS
    ]


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
            found = path.stat()
        except OSError as error:
            yield f"{path}: {error.strerror}"
            continue
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid not in owners:
            yield f"{path} belongs to user {found.st_uid}"
        if path in secrets and mode & 0o077:
            yield f"{path} has secrets, and others may read or write it (mode {mode:04o}, planned 0600)"
        elif mode & stat.S_IWOTH:
            yield f"everybody may write {path} (mode {mode:04o})"


def evaluate(planned: ServicePlan, facts: AccessFacts) -> CheckResult:
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
        problems.append(
            f"/v1/models answers {facts.with_key} {'with the key of' if planned.api_key else 'without a key; none is in'} etc/service.env"
        )
    problems += facts.files
    evidence: dict[str, Any] = {
        "listens on": facts.addresses,
        "guarded routes": sorted(facts.answers),
        "routes that vLLM leaves open": facts.open,
        "problems": problems,
    }
    figures = (
        Figure("routes that need the key", len(facts.answers), "count"),
        Figure("open routes", len(facts.open), "count"),
    )
    key = f"{len(facts.answers)} routes refuse a request without the key" if planned.api_key else "no key is planned"
    healthy = f"it listens on {', '.join(facts.addresses)} as planned; {key}; only the owner can read its secrets"
    return combine([Observation("fail", text, REMEDY) for text in problems], healthy, figures, evidence)

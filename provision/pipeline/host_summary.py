"""The summary on a host, PREFIX/logs/summary.txt: what the newest run did there, and what the host has."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from provision.core.errors import FirstlightError
from provision.core.install_paths import InstallPaths
from provision.core.json_text import parse_object
from provision.core.models.base import Record
from provision.core.models.inventory import Host
from provision.core.models.records import AttentionProof, HostSummary, ServeRecord, Summary
from provision.core.models.stack import Stack
from provision.core.redaction import scrub
from provision.fleet.ssh import Session
from provision.report import text
from provision.report.run_files import own_verification
from provision.report.summary_builder import verdict
from provision.run.context import RunContext

R = TypeVar("R", bound=Record)

NAME = "logs/summary.txt"
RECORDS = ("current/stack.json", "verify/ready.json", "verify/last.json")
"""Files below the prefix: the Stack of the live environment, the newest proof of its service, and its newest checks."""
WRITE_DEADLINE_S = 60.0


def write_on_hosts(context: RunContext, summary: Summary, names: Container[str]) -> None:
    """Replace the summary on hosts, many at a time. One that does not answer any more has its summary on the controller."""
    paths = context.result.install_paths
    summaries = {host.name: host for host in summary.hosts if host.name in names}

    def write(host: Host) -> None:
        write_on_host(context.session(host), paths[host.name], summary, summaries[host.name])

    hosts = [context.host(name) for name in summaries]
    done = context.ask_hosts(hosts, write, deadline_s=WRITE_DEADLINE_S, retries=0)
    for error in done.errors.values():
        if not isinstance(error, FirstlightError):
            raise error


def write_on_host(session: Session, paths: InstallPaths, summary: Summary, host: HostSummary) -> None:
    """Replace the summary on a host.

    A run that did not plan the host, such as `stop`, knows no Stack: then the host's own records are read.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The file cannot be written.
    """
    if host.stack is None:
        records: list[dict[str, object]] = []
        for name in RECORDS:
            try:
                records.append(parse_object(session.read(f"{paths.prefix}/{name}", root=paths.root)))
            except (FirstlightError, OSError, ValueError):  # there is none, or none that can be read
                records.append({})
        host = with_records(host, *records)
    session.write(f"{paths.prefix}/{NAME}", render(summary, host).encode(), root=paths.root)


def render(summary: Summary, host: HostSummary) -> str:
    """Return a run's text as far as it concerns one host."""
    own = {
        "hosts": (host,),
        "changed": int(host.changed),
        # those of a fleet are about other hosts
        "next_commands": summary.next_commands if len(summary.hosts) == 1 else (),
        "verdict": verdict((host,), host_comparison=summary.host_comparison, interrupted=summary.interrupted),
    }
    return text.render(summary.model_copy(update=own))


def with_records(
    host: HostSummary, stack: Mapping[str, Any], proof: Mapping[str, Any], checks: Mapping[str, Any]
) -> HostSummary:
    """Complete what a run left unknown of a host by the host's own records; a malformed record counts as absent."""
    found, served = _valid(Stack, scrub(stack)), _valid(ServeRecord, scrub(proof.get("record")))
    verified = own_verification(scrub(checks))
    update: dict[str, Any] = {"stack": found}
    if host.serve is None and found is not None and found.vllm is not None:
        is_stopped = host.state == "stopped"
        update["attention"] = AttentionProof(asked=found.attention.backend, used="none" if is_stopped else None)
        if served is not None and not is_stopped and proof.get("release") == host.release:
            update |= {"attention": served.attention, "serve": served}
    if not host.checks:
        update |= {"checks": verified.checks, "checks_at": verified.at}
    return host.model_copy(update=update)


def _valid(kind: type[R], document: Any) -> R | None:
    try:
        return kind.model_validate(document)
    except ValidationError:
        return None

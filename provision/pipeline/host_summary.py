"""The summary on a host, PREFIX/logs/summary.txt: what the newest run did there, and what the host has."""

from __future__ import annotations

from collections.abc import Container
from functools import partial

from provision.core.errors import FirstlightError
from provision.core.install_paths import InstallPaths
from provision.core.json_text import parse_object
from provision.core.models.records import HostSummary, Summary
from provision.fleet.ssh import Session, Task, fan_out
from provision.report import on_host
from provision.run.context import RunContext

NAME = "logs/summary.txt"
RECORDS = ("current/stack.json", "verify/ready.json", "verify/last.json")
"""Files below the prefix: the Stack of the live environment, the newest proof of its service, and its newest checks."""

WRITE_DEADLINE_S = 60.0


def write_on_hosts(context: RunContext, summary: Summary, names: Container[str]) -> None:
    """Replace the summary on hosts, many at a time. One that does not answer any more has its summary on the controller.

    Args:
        context: The run.
        summary: Its summary.
        names: The hosts.
    """
    paths = context.result.install_paths
    tasks = [
        Task(
            host.name,
            partial(write_on_host, context.session(context.host(host.name)), paths[host.name], summary, host),
            deadline_s=WRITE_DEADLINE_S,
            retries=0,
            cancel=context.session(context.host(host.name)).close,
        )
        for host in summary.hosts
        if host.name in names
    ]
    done = fan_out(tasks)
    for error in done.errors.values():
        if not isinstance(error, FirstlightError):
            raise error


def write_on_host(session: Session, paths: InstallPaths, summary: Summary, host: HostSummary) -> None:
    """Replace the summary on a host.

    A run that did not plan the host, such as `stop`, knows no Stack: then the host's own records are read.

    Args:
        session: Connection to the host.
        paths: Where the installation is.
        summary: Summary of the run.
        host: The host's part of it.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The file cannot be written.
    """
    if host.stack is None:
        host = on_host.with_records(host, *(_record(session, paths, name) for name in RECORDS))
    session.write(f"{paths.prefix}/{NAME}", on_host.render(summary, host).encode(), root=paths.root)


def _record(session: Session, paths: InstallPaths, name: str) -> dict[str, object]:
    """Return the content of a file; empty where there is none, or none that can be read."""
    try:
        return parse_object(session.read(f"{paths.prefix}/{name}", root=paths.root))
    except (FirstlightError, OSError, ValueError):
        return {}

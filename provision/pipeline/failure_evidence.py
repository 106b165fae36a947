"""Logs and states of hosts that may explain a failure, kept in the run's folder without secrets."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial

from provision.core.files import write_atomically
from provision.core.models.inventory import Host
from provision.core.redaction import redact
from provision.fleet.ssh import Task, fan_out
from provision.phases.probe.failure_evidence import Source, collect
from provision.run.context import RunContext
from provision.run.results import ProbedHosts

DEADLINE_S = 120.0


def gather(
    context: RunContext, probed: ProbedHosts, hosts: Sequence[Host], *, since: Mapping[str, float] | None = None
) -> tuple[dict[str, tuple[Source, ...]], dict[str, BaseException]]:
    """Read the logs and states of hosts that may explain a failure. Nothing is changed on them.

    Args:
        context: The run.
        probed: The hosts as they were probed.
        hosts: The hosts to read.
        since: By host, seconds from the start of the run; older lines of the service's log are left out.

    Returns:
        The sources of each host that answered, and the error of each other host.
    """

    def call(host: Host) -> tuple[Source, ...]:
        paths = probed.install_paths[host.name]
        since_s = context.run.seconds - since[host.name] if since is not None else None
        return collect(context.session(host), prefix=paths.prefix, root=paths.root, since_s=since_s)

    started = time.monotonic()
    done = fan_out([Task(host=host.name, call=partial(call, host), deadline_s=DEADLINE_S) for host in hosts])
    context.run.event("evidence", seconds=round(time.monotonic() - started, 3), hosts=sorted(done.values))
    gathered = {name: tuple(keep(context, name, source) for source in sources) for name, sources in done.values.items()}
    return gathered, done.errors


def keep(context: RunContext, host: str, source: Source) -> Source:
    """Write a source to the run's folder, and return it without secrets, as it was written."""
    kept = Source(source.name, redact(source.text), source.absent)
    if kept.absent is None:
        write_atomically(context.run.path(f"evidence/{host}/{kept.name}.txt"), kept.text)
    return kept

"""Where the watchdog takes part in the work of the core: `plan` names it, and `status` tells what it did."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.features.watchdog.health_agent import READ_DEADLINE_S, RECORD, WatchdogRecord, parse_record, sentence
from provision.pipeline.host_status import StatusPart
from provision.run.context import RunContext
from provision.run.results import PlannedHosts, ProbedHosts

SHOWN = timedelta(days=1)
"""The text tells of this time; the JSON document has all that is noted."""


def planned(hosts: Sequence[Host], plan: PlannedHosts) -> dict[str, list[str]]:
    """Return the hosts with a watchdog, by what `plan` says of it."""
    wanted = [host.name for host in hosts if host.is_serving and host.settings.watchdog]
    names = [name for name in wanted if (stack := plan.stack(name)) and stack.supervisor == "systemd"]
    return {"watchdog, restarts an engine that hangs": names}


def status(context: RunContext, probed: ProbedHosts) -> dict[str, StatusPart]:
    """Return what the watchdogs of hosts did."""

    def ask(host: Host) -> WatchdogRecord:
        paths = probed.install_paths[host.name]
        with contextlib.suppress(FileNotFoundError):
            return parse_record(context.session(host).read(f"{paths.prefix}/{RECORD}", root=paths.root).decode())
        return WatchdogRecord()

    hosts = [
        host
        for host in context.hosts()
        if (facts := probed.facts.get(host.name)) and facts.installed and host.is_serving
    ]
    records = context.run_on_hosts("serve", hosts, ask, deadline_s=READ_DEADLINE_S)
    return {name: part_of(record, probed.facts[name]) for name, record in records.items()}


def part_of(record: WatchdogRecord, facts: HostFacts) -> StatusPart:
    """Return what `status` says of one host."""
    is_down = facts.installed is None or facts.installed.service != "active"
    last = record.events[-1:]
    begin = (datetime.now(UTC) - SHOWN).strftime("%Y%m%dT%H%M%SZ")
    left_down = bool(is_down and last and last[0].action == "left down")
    text = sentence(last if left_down else record.since(begin), is_down=is_down)
    return StatusPart({"watchdog": asdict(record)}, text, left_down)

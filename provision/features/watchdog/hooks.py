"""Where the watchdog takes part in the work of the core: `plan` names it, and `status` tells what it did."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from provision.core.models.inventory import Host
from provision.features.watchdog.health_agent import READ_DEADLINE_S
from provision.features.watchdog.record import RECORD, WatchdogRecord, parse_record, sentence
from provision.pipeline.host_status import StatusPart
from provision.report.layout import fold_names
from provision.run.context import RunContext
from provision.run.results import PlannedHosts, ProbedHosts

SHOWN = timedelta(days=1)
"""The text tells of this time; the JSON document has all that is noted."""


def planned(hosts: Sequence[Host], plan: PlannedHosts) -> list[str]:
    """Return what `plan` says of watchdogs."""
    wanted = [host.name for host in hosts if host.is_serving and host.settings.watchdog]
    names = [name for name in wanted if (stack := plan.stack(name)) and stack.supervisor == "systemd"]
    text = "watchdog, restarts an engine that hangs; compared in the run"
    return [f"{fold_names(names)}: {text}"] if names else []


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
    begin = (datetime.now(UTC) - SHOWN).strftime("%Y%m%dT%H%M%SZ")
    return {name: _part(record, begin, _is_down(probed, name)) for name, record in records.items()}


def _is_down(probed: ProbedHosts, name: str) -> bool:
    installed = probed.facts[name].installed
    return installed is None or installed.service != "active"


def _part(record: WatchdogRecord, begin: str, is_down: bool) -> StatusPart:
    last = record.events[-1:]
    shown = last if is_down and last and last[0].action == "left down" else record.since(begin)
    return StatusPart({"watchdog": asdict(record)}, sentence(shown, is_down=is_down))

"""The health agents of a run: each host that serves under systemd, as root's installation, gets one, with the watchdog that acts on what it sees."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from provision.core.files import write_atomically
from provision.core.install_paths import InstallPaths, unit_of
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.core.unit_set import filled
from provision.fleet.inventory.addresses import listened_on, own_address
from provision.phases.serve.tools import SHARED, zipapp
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.served import Served
from provision.run.unit_sets import FOLDER as UNIT_FOLDER
from provision.run.unit_sets import has, sums_command

AGENT = "firstlight-health-agent.service"
WATCHDOG = ("firstlight-watchdog.path", "firstlight-watchdog.service")
PROGRAM = "health.pyz"
ACTING = "watchdog.py"
FOLDER = "health-agent"
READ_DEADLINE_S = 60.0
_HERE = Path(__file__).parent
RECORD = "health-agent/watchdog.json"
"""Below the prefix of a host."""


def program() -> bytes:
    """Return the agent as one file."""
    return zipapp(_HERE / "onhost" / "health", "health.agent:main()", SHARED)


def unit_texts(served: Served, paths: InstallPaths, settings: Settings, *, listens: bool) -> dict[str, str]:
    """Return the text of each unit that a host is to have, by its name; an agent that a gateway asks `listens`."""
    bind = listened_on(served.bind)
    options = f" --listen {bind} --port {settings.health_port}" if listens else ""
    options += f" --request {paths.prefix}/run/hang" if settings.watchdog else ""
    kept = (AGENT, *WATCHDOG) if settings.watchdog else (AGENT,) if listens else ()
    values = {
        "prefix": paths.prefix,
        "user": paths.owner,
        "unit": served.unit,
        "suffix": f"@{paths.service}" if paths.service else "",
        "agent": unit_of(paths.service, AGENT),
        "engine_address": own_address(bind),
        "engine_port": served.port,
        "options": options,
        "restarts": settings.watchdog_restarts,
    }
    return {unit_of(paths.service, name): filled(_HERE / "units" / name, **values) for name in kept}


def digest(programs: Mapping[str, bytes], units: Mapping[str, str]) -> str:
    """Return what a host has in the file `started` once its units run these files: not yet where a run ended before it started them."""
    return hashlib.sha256(repr((sorted(programs.items()), sorted(units.items()))).encode()).hexdigest()


def _absent(wanted: Mapping[str, str], paths: InstallPaths) -> list[str]:
    """Return the units that a host is not to have."""
    return [name for one in (AGENT, *WATCHDOG) if (name := unit_of(paths.service, one)) not in wanted]


def set_up(context: RunContext, probed: ProbedHosts, served: Mapping[str, Served]) -> dict[str, Served]:
    """Set the health agents of hosts up.

    Returns:
        What each host serves, with the port of its agent where gateways ask it. A host that does not answer keeps what was known of it.
    """
    hosts = {host.name: host for host in context.inventory.hosts}
    ports = {name: hosts[name].settings.health_port for name in bring(context, probed, served)}
    return {name: replace(one, health_port=ports.get(name, one.health_port)) for name, one in served.items()}


def bring(context: RunContext, probed: ProbedHosts, served: Mapping[str, Served]) -> dict[str, WatchdogRecord]:
    """Bring agents and watchdogs to the hosts that can have them: systemd keeps their service running, for root.

    Returns:
        What the watchdog of each such host did, by name; one where neither runs is missing.
    """
    hosts = [
        host
        for host in context.inventory.hosts
        if host.name in served
        and host.name in probed.install_paths
        and not context.has_failed(host.name)
        and probed.install_paths[host.name].root
        and served[host.name].unit is not None
    ]
    programs = {PROGRAM: program(), ACTING: (_HERE / "onhost" / ACTING).read_bytes()}
    listens = bool(context.options.find_gateways())
    units = {
        host.name: unit_texts(served[host.name], probed.install_paths[host.name], host.settings, listens=listens)
        for host in hosts
    }

    def ask(host: Host) -> tuple[WatchdogRecord, bool]:
        prefix, wanted = probed.install_paths[host.name].prefix, units[host.name]
        absent = " ".join(f"{UNIT_FOLDER}/{name}" for name in _absent(wanted, probed.install_paths[host.name]))
        command = f"cat {shlex.quote(f'{prefix}/{RECORD}')} 2>/dev/null || echo; "
        command += f"ls {absent} 2>/dev/null | sed 's/.*/left/'; " if absent else ""
        command += sums_command(f"{prefix}/{FOLDER}", wanted) if wanted else ""
        record, _, said = context.session(host).run(command, root=True).stdout.partition("\n")
        running = [name for name, text in wanted.items() if "\n[Install]\n" in text]
        is_set_up = not wanted or has(said, {**programs, "started": digest(programs, wanted)}, wanted, running)
        return parse_record(record), is_set_up and "left" not in said.splitlines()

    found = context.run_on_hosts("serve", hosts, ask, deadline_s=READ_DEADLINE_S)
    ready = {name for name, (_, is_set_up) in found.items() if is_set_up}
    if new := [host for host in hosts if host.name in found and host.name not in ready]:
        ready |= _play(context, probed, new, served=served, units=units, programs=programs)
    return {name: record for name, (record, _) in found.items() if name in ready and units[name]}


def _play(
    context: RunContext,
    probed: ProbedHosts,
    hosts: list[Host],
    *,
    served: Mapping[str, Served],
    units: Mapping[str, Mapping[str, str]],
    programs: Mapping[str, bytes],
) -> set[str]:
    """Bring agents to hosts; return those where it succeeded."""
    for host in hosts:
        context.progress.phase(host.name, "serve")
    locked = playbooks.acquire_locks(context, probed, "serve", hosts)
    files = [context.run.path(f"install/{name}") for name in programs]
    for path in files:
        write_atomically(path, programs[path.name])

    def variables(host: Host) -> dict[str, Any]:
        wanted, paths = units[host.name], probed.install_paths[host.name]
        return {
            "firstlight_health_agent": {
                "programs": [str(path) for path in files],
                "units": [{"name": name, "text": text} for name, text in wanted.items()],
                "digest": digest(programs, wanted),
                "absent": _absent(wanted, paths),
                "address": own_address(listened_on(served[host.name].bind)),
                "port": host.settings.health_port if context.options.find_gateways() else None,
            },
        }

    results = playbooks.run_playbook(context, probed, "health_agent", locked, variables)
    for name, result in results.items():
        text = "its health agent was set up" if units[name] else "its health agent was removed"
        context.record(playbooks.added_to_earlier(context, result, text, result.seconds))
    return set(results)


@dataclass(frozen=True)
class Event:
    """One time that the engine hung."""

    at: str
    """UTC, as in the names of runs: 20261127T043320Z."""
    action: str
    """`restarted` or `left down`."""
    reason: str
    dump: str
    """File on the host with threads and stacks."""


@dataclass(frozen=True)
class WatchdogRecord:
    """The newest events, the last one last."""

    restarts: int = 0
    """Restarts since the installation."""
    events: tuple[Event, ...] = ()

    def since(self, run: str) -> tuple[Event, ...]:
        """Return the events after the start of a run, or after any other time in its form."""
        return tuple(one for one in self.events if one.at > run)


def parse_record(text: str) -> WatchdogRecord:
    """Return a record; an empty one where there is none, or none that can be read."""
    try:
        return TypeAdapter(WatchdogRecord).validate_json(text)
    except ValidationError:
        return WatchdogRecord()


def sentence(events: tuple[Event, ...], *, is_down: bool) -> str:
    """Return what a watchdog did, in one sentence; empty where it did nothing.

    Args:
        events: What it did lately.
        is_down: Whether the service does not run.
    """
    if not events:
        return ""
    last = events[-1]
    where = f"{last.reason}; threads and stacks in {last.dump}"
    if last.action == "left down":
        return f"its watchdog {'left it down' if is_down else 'had left it down'} at {last.at}: {where}"
    count = sum(one.action == "restarted" for one in events)
    times = "once" if count == 1 else f"{count} times"
    return f"its watchdog restarted it {times}, last at {last.at}: {where}"

"""The health agents of a run: each host behind a gateway gets one, which reports how well its engine computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from provision.core.files import write_atomically
from provision.core.install_paths import InstallPaths
from provision.core.models.inventory import Host
from provision.fleet.inventory.addresses import listened_on, own_address
from provision.phases.serve.tools import SHARED, zipapp
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.served import Served
from provision.run.unit_sets import has, sums_command

UNIT = "firstlight-health-agent.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
PROGRAM = "health.pyz"
FOLDER = "health-agent"
READ_DEADLINE_S = 60.0
_SOURCES = Path(__file__).parent / "onhost" / "health"


def program() -> bytes:
    """Return the agent as one file."""
    return zipapp(_SOURCES, "health.agent:main()", (SHARED,))


def unit_text(served: Served, paths: InstallPaths, port: int) -> str:
    """Return the text of the agent's unit.

    Args:
        served: What the host serves, with the unit that serves it.
        paths: Where its installation is.
        port: Port that the agent listens on, at the address of the server.
    """
    bind = listened_on(served.bind)
    return Template(Path(__file__).with_name(UNIT).read_text(encoding="utf-8")).substitute(
        prefix=paths.prefix,
        user=paths.owner,
        unit=served.unit,
        listen=bind,
        port=port,
        engine_address=own_address(bind),
        engine_port=served.port,
    )


def variables(paths: InstallPaths, unit: str, served: Served, port: int, program: Path) -> dict[str, Any]:
    """Return the variables of the playbook; `program` is the agent's program on the controller."""
    bind = served.bind.strip("[]")
    return {
        **paths.ansible_vars(),
        "firstlight_health_agent": {
            "program": str(program),
            "unit": unit,
            "unit_path": UNIT_PATH,
            "address": own_address(bind),
            "port": port,
        },
    }


def set_up(context: RunContext, probed: ProbedHosts, served: Mapping[str, Served]) -> dict[str, Served]:
    """Set the health agents of hosts up that can have one: systemd keeps their service running, for root.

    Returns:
        What each host serves, with the port of its agent. A host that does not answer keeps what was known of it.
    """
    code = program()
    hosts = [
        host
        for host in context.inventory.hosts
        if host.name in served
        and host.name in probed.install_paths
        and not context.has_failed(host.name)
        and probed.install_paths[host.name].root
        and served[host.name].unit is not None
    ]
    units = {
        host.name: unit_text(served[host.name], probed.install_paths[host.name], host.settings.health_port)
        for host in hosts
    }

    def is_set_up(host: Host) -> bool:
        command = sums_command(f"{probed.install_paths[host.name].prefix}/{FOLDER}", (UNIT,))
        said = context.session(host).run(command, root=True).stdout
        return has(said, {PROGRAM: code}, {UNIT: units[host.name]}, (UNIT,))

    found = context.run_on_hosts("serve", hosts, is_set_up, deadline_s=READ_DEADLINE_S)
    ready = {name for name, is_ready in found.items() if is_ready}
    new = [host for host in hosts if host.name in found and host.name not in ready]
    if new:
        ready |= _play(context, probed, new, served=served, units=units, code=code)
    ports = {host.name: host.settings.health_port for host in hosts if host.name in ready}
    return {name: replace(one, health_port=ports.get(name, one.health_port)) for name, one in served.items()}


def _play(
    context: RunContext,
    probed: ProbedHosts,
    hosts: list[Host],
    *,
    served: Mapping[str, Served],
    units: Mapping[str, str],
    code: bytes,
) -> set[str]:
    """Bring agents to hosts; return those where one runs."""
    playbooks.acquire_locks(context, probed, "serve", hosts)
    path = context.run.path(f"install/{PROGRAM}")
    write_atomically(path, code)
    results = playbooks.run_playbook(
        context,
        "health_agent",
        "serve",
        [host for host in hosts if host.name in context.sessions.locks],
        lambda host: variables(
            probed.install_paths[host.name], units[host.name], served[host.name], host.settings.health_port, path
        ),
    )
    for result in results.values():
        text = "its health agent was set up"
        context.record(playbooks.added_to_earlier(context, result, text, result.seconds))
    return set(results)

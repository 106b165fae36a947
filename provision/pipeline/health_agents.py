"""The health agents of a run: each host behind a gateway gets one, which reports how well its engine computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from provision.core.files import write_atomically
from provision.core.models.inventory import Host
from provision.phases.gateway.backends import Served
from provision.phases.gateway.health_agent import FOLDER, PROGRAM, UNIT, program, unit_text, variables
from provision.pipeline import playbooks
from provision.pipeline.context import RunContext
from provision.pipeline.results import ProbedHosts
from provision.pipeline.unit_files import has, sums_command

READ_DEADLINE_S = 60.0


def set_up(context: RunContext, probed: ProbedHosts, served: Mapping[str, Served]) -> dict[str, Served]:
    """Set the health agents of hosts up that can have one: systemd keeps their service running, for root.

    Args:
        context: The run.
        probed: Installation paths of its hosts.
        served: What each host serves.

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

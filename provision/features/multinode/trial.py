"""The trial of several hosts in a run: they find and reach one another, and exchange numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from provision.core.models.inventory import Host
from provision.features.multinode.coordinator import meet
from provision.fleet.ssh.channel import Channel
from provision.phases.verify.run_checks import tool_command
from provision.run.context import RunContext
from provision.run.desired_state import Desired
from provision.run.results import ProbedHosts


def try_together(
    context: RunContext, probed: ProbedHosts, hosts: Sequence[Host], desired: Mapping[str, Desired]
) -> dict[str, Any]:
    """Let hosts find and reach one another, and exchange numbers. Nothing is configured on them.

    Returns:
        The record of the check.
    """

    def start(host: Host) -> Channel:
        paths, state = probed.install_paths[host.name], desired.get(host.name)
        environment = f"envs/{state.environment}" if state else "current"
        command = tool_command(paths.prefix.rstrip("/"), environment, ["multihost"])
        return context.session(host).open_channel(command, root=paths.root)

    for host in hosts:
        context.progress.note(host.name, "connects to the other hosts")
    return meet({host.name: partial(start, host) for host in hosts})

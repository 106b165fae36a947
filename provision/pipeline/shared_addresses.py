"""The shared address of the gateways of a run."""

from __future__ import annotations

from collections.abc import Sequence

from provision.core.errors import FirstlightError
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.phases.gateway import shared_address
from provision.pipeline.context import RunContext
from provision.pipeline.results import ProbedHosts
from provision.pipeline.unit_sets import play_differing

READ_DEADLINE_S = 60.0


def require_possible(context: RunContext, gateways: Sequence[Host]) -> dict[str, str]:
    """Return the interface of each gateway that shares an address; one that cannot share it fails.

    Args:
        context: The run.
        gateways: Its gateways that did not fail.
    """
    asked = [host for host in gateways if host.settings.gateway_address is not None]
    every = [host for host in context.inventory.hosts if host.is_gateway]
    said = context.run_on_hosts(
        "serve",
        asked,
        lambda host: context.session(host).run(shared_address.find_command(host)).stdout,
        deadline_s=READ_DEADLINE_S,
    )
    found = {}
    for host in [host for host in asked if host.name in said]:
        try:
            shared_address.sharing(host, every)
            shared_address.require_free(host, list(said.values()), said[host.name])
            found[host.name] = shared_address.interface_of(host, said[host.name])
        except FirstlightError as error:
            context.fail(host.name, "serve", error)
    return found


def set_up(
    context: RunContext, probed: ProbedHosts, gateways: Sequence[Host], interfaces: dict[str, str]
) -> dict[str, PhaseResult]:
    """Give gateways that run the address that they share; return the result of each.

    Args:
        context: The run.
        probed: Installation paths of its hosts.
        gateways: Its gateways that did not fail.
        interfaces: From `require_possible`.
    """
    every = [host for host in context.inventory.hosts if host.is_gateway]
    sets = {
        host.name: [
            shared_address.address_set(
                host,
                shared_address.sharing(host, every),
                interfaces[host.name],
                probed.install_paths[host.name].prefix,
            )
        ]
        for host in gateways
        if host.name in interfaces
    }
    return play_differing(context, probed, "gateway_address", sets) if sets else {}

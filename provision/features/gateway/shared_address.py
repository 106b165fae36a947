"""The address that gateways share: keepalived gives it to one of them, and to another when that one is lost."""

import ipaddress
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from provision.core.errors import FirstlightError, InventoryError
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.unit_set import UnitSet, filled
from provision.fleet.inventory.addresses import is_ip
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.unit_sets import play_differing

NAME = "gateway-address"
PACKAGES = ("keepalived",)
UNIT = "firstlight-gateway-address.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
KNOWN = "shared before"
"""What `find_command` prints on a gateway that shares this address already."""
CONFIG = "keepalived.conf"
READ_DEADLINE_S = 60.0
ADVERT_S = 0.5
"""Between two words of the gateway that has the address; after three without one another takes it (RFC 5798, 6.1)."""
FIRST_PRIORITY = 200
_HELD = re.compile(r"^\d+: (\S+) +inet6? (\S+?)/", re.MULTILINE)


def sharing(host: Host, gateways: Sequence[Host]) -> list[Host]:
    """Return the gateways that share the address of a host, itself among them, in the order of the inventory.

    Raises:
        InventoryError: No other gateway has this address, it belongs to a host, or a gateway's own address is unknown or of another family.
    """
    mine = host.settings.gateway_address
    if mine is None:
        return []
    shared = ipaddress.ip_interface(mine)
    found = [one for one in gateways if one.settings.gateway_address == mine]
    if len(found) < 2:
        raise InventoryError(
            f"gateway `{host.name}`: no other gateway shares the address {mine} with it",
            hint="put a second host into group `gateway` and set firstlight_gateway_address for the group, or leave the setting out",
        )
    for one in found:
        address = one.connection.address
        if address is None or not is_ip(address):
            raise InventoryError(
                f"gateway `{one.name}`: gateways that share an address speak by addresses, and the inventory names it {address or 'nothing'}",
                hint="set ansible_host to its IP address",
            )
        own = ipaddress.ip_address(address)
        if own == shared.ip:
            raise InventoryError(
                f"gateway `{one.name}`: {own} is its own address, which no other gateway can take",
                hint=f"set firstlight_gateway_address to a free address of {shared.network}",
            )
        if own.version != shared.version:
            raise InventoryError(
                f"gateway `{one.name}`: its address {own} and the shared one, {shared.ip}, are of two families",
                hint="choose a shared address of the same family",
            )
    return found


def find_command(host: Host, prefix: str) -> str:
    """Return a command that prints which interface has the host's address, and who has the shared one.

    A datagram makes the kernel look for the neighbour; its answer is in the table of neighbours after a second.
    """
    shared = ipaddress.ip_interface(str(host.settings.gateway_address)).ip
    ask = f"bash -c 'echo > /dev/udp/{shared}/9' 2>/dev/null; sleep 1; ip neigh show to {shared}"
    known = f"grep -qsF ' {shared}/' {shlex.quote(f'{prefix}/{NAME}/current/{CONFIG}')} && echo {KNOWN}"
    return f"{known}; ip -o addr show to {host.connection.address}; ip -o addr show to {shared}; {ask}"


def interface_of(host: Host, said: str) -> str:
    """Return the interface that has the host's own address, from what `find_command` printed there. Raises InventoryError where none has it."""
    own = str(ipaddress.ip_address(str(host.connection.address)))
    for interface, address in _HELD.findall(said):
        if address == own:
            return str(interface)
    raise InventoryError(
        f"gateway `{host.name}`: no interface of it has the address {host.connection.address}",
        hint="an address is shared in one network: set ansible_host to the address that the host has there",
    )


def require_free(host: Host, others: Sequence[str], said: str) -> None:
    """Raise InventoryError where `said` on one gateway shows that another machine than those of `others` has the shared address."""
    shared = ipaddress.ip_interface(str(host.settings.gateway_address)).ip
    if KNOWN in said or any(str(shared) == address for one in others for _, address in _HELD.findall(one)):
        return
    if holder := re.search(r"lladdr (\S+)", said):
        raise InventoryError(
            f"gateway `{host.name}`: the address {shared} is in use, by the machine with the hardware address {holder[1]}",
            hint="set firstlight_gateway_address to a free address",
        )


def address_set(host: Host, gateways: Sequence[Host], interface: str, prefix: str) -> UnitSet:
    """Return keepalived with its configuration for one of the gateways that `sharing` returns."""
    shared = ipaddress.ip_interface(str(host.settings.gateway_address))
    here = Path(__file__).parent
    config = filled(
        here / CONFIG,
        interface=interface,
        router_id=host.settings.gateway_router_id or int(shared.ip) % 256 or 255,
        priority=FIRST_PRIORITY - [one.name for one in gateways].index(host.name),
        advert_s=ADVERT_S,
        own=host.connection.address,
        peers="".join(f"        {one.connection.address}\n" for one in gateways if one.name != host.name),
        shared=shared,
    )
    return UnitSet(
        name=NAME,
        files={CONFIG: config},
        units={UNIT: filled(here / UNIT, prefix=prefix)},
        packages=PACKAGES,
        packaged=("keepalived.service",),
        checks=(("keepalived", "--config-test", "--use-file", CONFIG),),
    )


def require_possible(context: RunContext, probed: ProbedHosts, gateways: Sequence[Host]) -> dict[str, str]:
    """Return the interface of each gateway that shares an address; one that cannot share it fails."""

    def ask(host: Host) -> str:
        prefix = probed.install_paths[host.name].prefix
        return context.session(host).run(find_command(host, prefix), root=True).stdout

    asked = [host for host in gateways if host.settings.gateway_address is not None]
    every = [host for host in context.inventory.hosts if host.is_gateway]
    said = context.run_on_hosts("serve", asked, ask, deadline_s=READ_DEADLINE_S)
    found = {}
    for host in [host for host in asked if host.name in said]:
        try:
            sharing(host, every)
            require_free(host, list(said.values()), said[host.name])
            found[host.name] = interface_of(host, said[host.name])
        except FirstlightError as error:
            context.fail(host.name, "serve", error)
    return found


def set_up(
    context: RunContext, probed: ProbedHosts, gateways: Sequence[Host], interfaces: dict[str, str]
) -> dict[str, PhaseResult]:
    """Give gateways that run the address that they share, at the interfaces of `require_possible`; return the result of each."""
    sets = {}
    for host in [host for host in gateways if host.name in interfaces]:
        sharers = sharing(host, [one for one in context.inventory.hosts if one.is_gateway])
        prefix = probed.install_paths[host.name].prefix
        sets[host.name] = [address_set(host, sharers, interfaces[host.name], prefix)]
    return play_differing(context, probed, "gateway_address", sets)

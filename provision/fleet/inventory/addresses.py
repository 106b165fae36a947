"""By which address one host of the inventory reaches a server of another. Pure."""

import ipaddress
from collections.abc import Collection

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, never listened on
"""Addresses of a server that listens on all interfaces."""
OUTSIDE = Host(name="", connection=Connection(kind="ssh"), settings=Settings())
"""A machine that is no host of the inventory."""


def is_ip(name: str) -> bool:
    """Return whether a text is an IP address, not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_address(bind: str) -> str:
    """Return the address by which a host reaches its own server."""
    return "127.0.0.1" if bind in ("0.0.0.0", "localhost") else "::1" if bind == "::" else bind  # noqa: S104


def listened_on(bind: str) -> str:
    """Return the address of a setting as a server's configuration takes it: without brackets, `localhost` in numbers."""
    return "127.0.0.1" if bind == "localhost" else bind.strip("[]")


def is_of_other_family(host: Host, bind: str) -> bool:
    """Return whether a server that listens on all IPv4 addresses misses its host's, which the inventory names as an IPv6 address."""
    return bind == EVERYWHERE[0] and ":" in (host.connection.address or "")


def address_from(viewer: Host, host: Host, bind: str) -> str | None:
    """Return the address of a host's server, which listens on `bind`, as another host or the same one reaches it.

    None where the server listens for its own host alone or on no address of the family that the inventory names, or the
    inventory has no address of the host.
    """
    if host.name == viewer.name:
        return own_address(bind)
    if is_of_other_family(host, bind):
        return None
    return host.connection.address if bind in EVERYWHERE else own_alone(bind)


def own_alone(bind: str) -> str | None:
    """Return the address in a setting that one host alone has; None for a loopback address, and for all of them."""
    if bind in (*EVERYWHERE, "localhost") or ipaddress.ip_address(bind.strip("[]")).is_loopback:
        return None
    return bind.strip("[]")


def with_port(address: str, port: int) -> str:
    """Return address and port as addresses of servers are written."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def metrics_bind(host: Host, monitors: Collection[Host]) -> str:
    """Return the address on which a host offers its metrics to hosts that monitor.

    It is that of the setting; without one a loopback address where only the host itself reads them, else the address by which
    the inventory reaches the host, and all addresses where that is a name.
    """
    if host.settings.metrics_bind is not None:
        return host.settings.metrics_bind
    if {one.name for one in monitors} == {host.name}:
        return "127.0.0.1"
    address = host.connection.address
    return address if address and is_ip(address) else EVERYWHERE[0]


def gateway_endpoint(host: Host, address: str) -> str:
    """Return the address of a gateway's API as a client of OpenAI's takes it."""
    scheme = "https" if host.settings.gateway_tls else "http"
    return f"{scheme}://{with_port(address, host.settings.gateway_port)}/v1"

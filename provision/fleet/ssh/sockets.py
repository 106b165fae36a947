"""TCP connections to hosts."""

from __future__ import annotations

import socket

from provision.core.models.inventory import Connection

_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_DEAD_AFTER_MS = 30_000
"""A host that acknowledges no data for this time is gone."""


def connect_socket(connection: Connection) -> socket.socket:
    """Connect to the first address of the host that answers.

    Raises:
        OSError: The error of the last address.
    """
    source = (connection.bind_address, 0) if connection.bind_address else None
    last: OSError = OSError(f"no address for {connection.address}")
    found = socket.getaddrinfo(
        str(connection.address), connection.port, _FAMILIES[connection.address_family], socket.SOCK_STREAM
    )
    for family, kind, protocol, _, target in found:
        opened = socket.socket(family, kind, protocol)
        try:
            opened.settimeout(connection.connect_timeout_s)
            if source:
                opened.bind(source)
            opened.connect(target)
        except OSError as error:
            opened.close()
            last = error
            continue
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
        return opened
    raise last

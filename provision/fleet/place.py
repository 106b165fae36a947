"""Where a host is reached, by which a record that the controller keeps of it is told from that of another host with the same name."""

from __future__ import annotations

from provision.core.models.settings import Host


def place_of(host: Host) -> str:
    """Return address and port of a host; `local` for this machine."""
    where = host.connection
    return "local" if where.kind == "local" else f"{where.address or host.name}:{where.port}"

"""File-based service discovery in Prometheus' form: the hosts that take requests, for balancers that read such a file. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterable

from provision.core.models.inventory import Host
from provision.fleet.inventory.addresses import with_port


def targets_text(hosts: Iterable[Host], out: Collection[str]) -> str:
    """Return the file: one entry for each host that answers requests, without those that are out of rotation.

    Args:
        hosts: All hosts of the inventory.
        out: Names of the hosts that get no requests.
    """
    entries = [
        {"targets": [_endpoint(host)], "labels": {"host": host.name}}
        for host in hosts
        if host.is_serving and host.name == host.head and host.name not in out
    ]
    return json.dumps(entries, indent=1) + "\n"


def _endpoint(host: Host) -> str:
    """Return address and port as other machines reach them."""
    bind = host.settings.bind.strip("[]")
    if bind != "localhost" and not (ip := ipaddress.ip_address(bind)).is_loopback and not ip.is_unspecified:
        address = bind
    else:
        address = host.connection.address or host.name
    return with_port(address, host.settings.port)

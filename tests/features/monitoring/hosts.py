"""Hosts of an inventory, as the tests of monitoring need them."""

from typing import Any

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings


def host(name: str, *groups: str, address: str = "192.0.2.1", **settings: Any) -> Host:
    """Return a host that is reached over SSH."""
    connection = Connection(kind="ssh", address=address)
    return Host(name=name, groups=groups or ("gpus",), connection=connection, settings=Settings(**settings))


MONITOR = host("mon", "monitoring", address="192.0.2.9")

"""Which kind of session reaches a host."""

from __future__ import annotations

from provision.core.models.settings import Host
from provision.fleet.ssh.session import Session


def open_session(host: Host) -> Session:
    """A session for a host of the inventory; nothing is connected yet."""
    # One of the two is needed, and the one over SSH costs its libraries.
    if host.connection.kind == "local":
        from provision.fleet.ssh.local import LocalSession  # noqa: PLC0415

        return LocalSession(host.name, host.connection)
    from provision.fleet.ssh.ssh import SshSession  # noqa: PLC0415

    return SshSession(host.name, host.connection)

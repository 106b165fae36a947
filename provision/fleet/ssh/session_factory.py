"""Factory of sessions."""

from __future__ import annotations

from provision.core.models.inventory import Host
from provision.fleet.ssh.local import LocalSession
from provision.fleet.ssh.session import Session


def open_session(host: Host) -> Session:
    """Return a session for a host; it connects on first use."""
    if host.connection.kind == "local":
        return LocalSession(host.name, host.connection)
    from provision.fleet.ssh.ssh import SshSession  # Fabric takes 0.1 s, and a command on this machine needs none

    return SshSession(host.name, host.connection)

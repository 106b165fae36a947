"""Factory of sessions."""

from __future__ import annotations

from provision.core.models.inventory import Host
from provision.fleet.ssh.session import Session
from provision.fleet.ssh.stand_ins import stand_ins


def open_session(host: Host) -> Session:
    """Return a session for a host; it connects on first use."""
    # only one is needed, and SSH imports large libraries
    if host.connection.kind == "local":
        from provision.fleet.ssh.local import LocalSession

        return LocalSession(host.name, host.connection)
    with stand_ins():
        from provision.fleet.ssh.ssh import SshSession

    return SshSession(host.name, host.connection)

"""Connections to hosts through a running ProxyCommand.

Paramiko's ProxyCommand reports no error text, keeps its children alive, and has no real socket to poll.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from typing import IO

from provision.core.errors import HostKeyError, TransportError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.host_keys import name_of, renewal_hint
from provision.fleet.ssh.openssh import key_command, manual_command


class Proxy:
    """A running ProxyCommand. For jump hosts it is OpenSSH, which checks their host keys as well."""

    def __init__(self, connection: Connection) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the proxy
        with theirs:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {connection.proxy_command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=True,
            )

    def error_text(self) -> str:
        """Return its stderr in one line."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)  # it reports the reason before it ends
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return " / ".join(line.strip() for line in lines if line.strip())

    def close(self) -> None:
        """End it and its children."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()


def proxy_error(host: str, connection: Connection, error_text: str) -> TransportError:
    """Return the error for a host behind a proxy, from the proxy's stderr."""
    way = " -> ".join(f"{jump.address}:{jump.port}" for jump in connection.proxy_jump) or "its ProxyCommand"
    text = f"host {host} ({connection.address}:{connection.port}) cannot be reached through {way}: {error_text}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in error_text:
        return HostKeyError(text, hint=renewal_hint(_refused(connection, error_text)))
    if "Host key verification failed" in error_text:
        command = key_command(_refused(connection, error_text))
        return HostKeyError(text, hint=f"compare the key that it shows with the jump host's own: {command}")
    first = f", the jump host first: {manual_command(connection.proxy_jump[-1])}; then" if connection.proxy_jump else ""
    agent = "add a key with a passphrase to your agent (ssh-add), or " if "Permission denied" in error_text else ""
    return TransportError(text, hint=f"{agent}try it by hand{first}: {manual_command(connection)}")


def _refused(connection: Connection, error_text: str) -> Connection:
    """Return the jump host whose key was refused, by the name in OpenSSH's message; else the host itself."""
    named = [jump for jump in connection.proxy_jump if name_of(jump) in error_text]
    return next(iter((*named, *connection.proxy_jump, connection)))

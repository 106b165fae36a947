"""Errors of connections, with causes in plain words."""

from __future__ import annotations

import errno
import socket

from provision.core.errors import TransportError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.openssh import manual_command


class AuthenticationError(TransportError):
    """The host refused the login; a retry would not help."""


def where(connection: Connection) -> str:
    """Return the address for messages."""
    return f"{connection.address}:{connection.port}"


def reason(error: BaseException) -> str:
    """Return why a connection failed, as a clause."""
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, EOFError):
        return "the host closed the connection"
    if isinstance(error, OSError) and error.errno is not None:
        known = {
            errno.ECONNREFUSED: "connection refused: nothing listens on that port",
            errno.EHOSTUNREACH: "no route to the host",
            errno.ENETUNREACH: "the network is unreachable",
            errno.ECONNRESET: "connection reset by the host",
            errno.EPIPE: "the connection broke",
        }
        return known.get(error.errno, error.strerror or str(error))
    return str(error) or type(error).__name__


def unreachable_error(host: str, connection: Connection, error: BaseException) -> TransportError:
    """Return the error for a host that cannot be reached."""
    return TransportError(
        f"host {host} ({where(connection)}) cannot be reached: {reason(error)}",
        hint=f"try it by hand: {manual_command(connection)}",
    )


def broken_error(host: str, connection: Connection, error: BaseException) -> TransportError:
    """Return the error for a broken connection."""
    return TransportError(
        f"the connection to host {host} ({where(connection)}) broke: {reason(error)}",
        hint="run the same command again: what was done is kept",
    )

"""A resolved connection as OpenSSH arguments, for Ansible and for people, and errors of connections in plain words."""

import errno
import shlex
import socket
from typing import Any

from provision.core.errors import TransportError
from provision.core.models.inventory import Connection

_UNATTENDED = (
    "ServerAliveInterval=15",  # Ansible notices a lost host after 45 s
    "ControlMaster=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
)
"""Options of a run, in place of what a user's configuration has for logins of people."""


def unattended_options(connection: Connection) -> list[str]:
    """Return the options with which programs run OpenSSH: host keys are checked without a question, nothing is forwarded."""
    checking = "accept-new" if connection.accept_new_host_keys else "yes"
    settings = (f"StrictHostKeyChecking={checking}", *_UNATTENDED)
    return [word for setting in settings for word in ("-o", setting)]


def manual_command(connection: Connection, *options: str) -> str:
    """Return the command line to reach the host by hand."""
    return shlex.join([*connection.ssh_words(*options), "true"])


def key_command(connection: Connection, *options: str) -> str:
    """Return the command line that shows the key of the host, and stores it after confirmation."""
    return manual_command(connection, "-o", "StrictHostKeyChecking=ask", *options)


def ansible_variables(connection: Connection) -> dict[str, Any]:
    """Return host variables with which Ansible connects like the sessions.

    Passwords are not included, so that no file in the run's folder contains them.
    """
    variables: dict[str, Any] = {"ansible_become": connection.become, "ansible_become_method": "sudo"}
    if connection.python_interpreter is not None:
        variables["ansible_python_interpreter"] = connection.python_interpreter
    if connection.kind == "local":
        return variables | {"ansible_connection": "local"}
    return variables | {
        "ansible_connection": "ssh",
        "ansible_host": connection.target or connection.address,
        "ansible_port": connection.port,
        "ansible_user": connection.user,
        "ansible_ssh_common_args": shlex.join((*unattended_options(connection), *connection.openssh_options)),
        # overrides ansible.cfg and the environment
        "ansible_host_key_checking": True,
    }


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

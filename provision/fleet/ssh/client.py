"""Fabric connections from resolved parameters: own socket, own host key check, no defaults from Fabric."""

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import fabric
import paramiko
from paramiko.auth_strategy import AuthFailure

from provision.core.errors import TransportError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.authentication import Login
from provision.fleet.ssh.host_keys import KnownKey, check_host_key, keys_of, preferred_kinds
from provision.fleet.ssh.openssh import AuthenticationError, reason, unreachable_error, where
from provision.fleet.ssh.proxy import Proxy, proxy_error

# Paramiko reports by log what it also raises; without a handler Python would print that to the terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

KEEPALIVE_S = 15
_AUTHENTICATION_S = 30.0
"""Hosts with slow DNS or PAM modules need long for a login."""


class OpenConnection(NamedTuple):
    """An open connection, with its proxy process where it has one; `parts` closes all of it."""

    transport: paramiko.Transport
    parts: contextlib.ExitStack


def connect(host: str, connection: Connection) -> OpenConnection:
    """Connect and log in.

    Raises:
        TransportError: The host cannot be reached.
        HostKeyError: The host key is wrong or unknown.
        AuthenticationError: The host refused the login.
    """
    proxy = None
    with contextlib.ExitStack() as parts:
        try:
            if connection.proxy_command is not None:
                proxy = parts.enter_context(contextlib.closing(Proxy(connection)))
                channel = proxy.socket
            else:
                channel = parts.enter_context(contextlib.closing(connect_socket(connection)))
        except OSError as error:
            raise unreachable_error(host, connection, error) from None
        login, known = Login(connection), keys_of(connection)
        link = _link(connection, channel, login, known)
        link.client.set_missing_host_key_policy(_HostKeyCheck(host, connection, known))
        parts.callback(link.client.close)
        try:
            link.open()
        except AuthFailure as error:
            raise _refused(host, connection, login, error) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            message = proxy.error_text() if proxy is not None else ""
            raise (
                proxy_error(host, connection, message) if message else unreachable_error(host, connection, error)
            ) from None
        link.transport.set_keepalive(KEEPALIVE_S)
        return OpenConnection(link.transport, parts.pop_all())


def _link(connection: Connection, channel: socket.socket, login: Login, known: Sequence[KnownKey]) -> fabric.Connection:
    """Return a connection to be opened. It reads no files of Fabric and OpenSSH: what they say is resolved already."""
    return fabric.Connection(
        str(connection.address),
        user=connection.user,
        port=connection.port,
        config=fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig()),
        connect_timeout=connection.connect_timeout_s,
        connect_kwargs={
            "sock": channel,
            "auth_strategy": login,
            "transport_factory": _transport_factory(connection, known),
            "banner_timeout": connection.connect_timeout_s,
            "auth_timeout": _AUTHENTICATION_S,
        },
    )


class _HostKeyCheck(paramiko.MissingHostKeyPolicy):
    """Host key check of every connection; Paramiko itself gets no known keys."""

    def __init__(self, host: str, connection: Connection, known: Sequence[KnownKey]) -> None:
        self._host = host
        self._connection = connection
        self._known = known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        del client, hostname
        check_host_key(self._host, self._connection, self._known, key.get_name(), key.asbytes())


def _transport_factory(connection: Connection, known: Sequence[KnownKey]) -> Callable[..., paramiko.Transport]:
    """Return a factory of transports with the algorithms of the user's ssh configuration, known key types first."""

    def make(sock: socket.socket, **options: Any) -> paramiko.Transport:
        transport = paramiko.Transport(sock, **options)
        security = transport.get_security_options()
        first = preferred_kinds(known)
        security.key_types = sorted(security.key_types, key=lambda kind: kind not in first)
        for ours, theirs in ALGORITHMS.items():
            if theirs in connection.algorithms:
                allowed = connection.algorithms[theirs]
                offered = getattr(security, ours)
                chosen = [name for name in offered if name in allowed]
                if not chosen:
                    raise paramiko.SSHException(
                        f"none of the {theirs} that the ssh configuration allows ({', '.join(allowed)}) is one that this connection has"
                    )
                setattr(security, ours, chosen)
        return transport

    return make


ALGORITHMS = {"ciphers": "ciphers", "digests": "macs", "kex": "kexalgorithms", "key_types": "hostkeyalgorithms"}
"""Paramiko's names of the algorithm lists, and OpenSSH's."""


def _refused(host: str, connection: Connection, login: Login, error: AuthFailure) -> TransportError:
    """Return the error of a failed login: attempts and accepted methods, or a broken connection."""
    accepted: list[str] = []
    for attempt in error.result:
        if isinstance(attempt.result, paramiko.BadAuthenticationType):
            accepted = list(attempt.result.allowed_types)
        elif isinstance(attempt.result, OSError | EOFError) or (
            isinstance(attempt.result, paramiko.SSHException)
            and not isinstance(attempt.result, paramiko.AuthenticationException)
        ):
            return TransportError(
                f"host {host} ({where(connection)}) broke off while {connection.user} logged in: {reason(attempt.result)}",
                hint="the host may limit logins or attempts (MaxStartups, MaxAuthTries); try again, or offer fewer keys",
            )
    tried = ", ".join(login.tried) or "nothing: no key and no password is at hand"
    notes = "".join(f"; {note}" for note in login.notes)
    takes = f"; the host takes {', '.join(accepted)}" if accepted else ""
    return AuthenticationError(
        f"host {host} ({where(connection)}) refused to log in {connection.user}; tried: {tried}{notes}{takes}",
        hint="name the right key with ansible_ssh_private_key_file, or the right user with ansible_user",
    )


_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_DEAD_AFTER_MS = 30_000
"""A host that acknowledges no data for this time is gone."""


def connect_socket(connection: Connection) -> socket.socket:
    """Connect to the first address of the host that answers. Raises OSError, that of the last address."""
    source = (connection.bind_address, 0) if connection.bind_address else None
    last: OSError = OSError(f"no address for {connection.address}")
    family = _FAMILIES[connection.address_family]
    for *_, target in socket.getaddrinfo(str(connection.address), connection.port, family, socket.SOCK_STREAM):
        try:
            address = socket.getnameinfo(target, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]  # with its zone
            opened = socket.create_connection((address, connection.port), connection.connect_timeout_s, source)
        except OSError as error:
            last = error
            continue
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
        return opened
    raise last

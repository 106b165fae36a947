"""TCP connections to hosts, which may begin before the SSH library is imported: a host needs as long for its first words as that takes."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from provision.core.models.inventory import Connection

_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_DEAD_AFTER_MS = 30_000
"""A host that acknowledges no data for this time is gone."""

_Target = Any
"""An address as the system gives it, of any family."""


class _Begun:
    """Connections that have begun, by their address; each is taken once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: dict[_Target, socket.socket | None] = {}
        self._ended = False

    def begin(self, connection: Connection) -> None:
        """Begin to connect to the first address of a host, unless somebody connects to it already."""
        family, kind, protocol, target = _addresses(connection)[0]
        with self._lock:
            if self._ended or target in self._sockets:
                return
            opened = self._sockets[target] = socket.socket(family, kind, protocol)
            opened.setblocking(False)
            opened.connect_ex(target)

    def take(self, target: _Target) -> socket.socket | None:
        with self._lock:
            opened = self._sockets.get(target)
            self._sockets[target] = None
            return opened

    def end(self) -> None:
        """Close what nobody took."""
        with self._lock:
            self._ended = True
            for opened in filter(None, self._sockets.values()):
                opened.close()
            self._sockets.clear()


_begun = _Begun()


@contextlib.contextmanager
def begun(connections: Sequence[Connection]) -> Iterator[None]:
    """Begin to connect in the background. What nobody has taken at the end of the block is closed.

    Args:
        connections: Hosts without a proxy, which cannot be reached otherwise.
    """
    global _begun  # noqa: PLW0603 - the sessions of a run are opened far from where it begins
    own = _begun = _Begun()

    def begin() -> None:
        for connection in connections:
            # whoever opens the session tries again, and reports the error
            with contextlib.suppress(OSError, UnicodeError):
                own.begin(connection)

    threading.Thread(target=begin, daemon=True, name="firstlight-begin").start()
    try:
        yield
    finally:
        own.end()


def connect_socket(connection: Connection) -> socket.socket:
    """Connect to the first address of the host that answers.

    Raises:
        OSError: The error of the last address.
    """
    source = (connection.bind_address, 0) if connection.bind_address else None
    last: OSError = OSError(f"no address for {connection.address}")
    for family, kind, protocol, target in _addresses(connection):
        opened = None if source else _begun.take(target)
        try:
            if opened is None:
                opened = socket.socket(family, kind, protocol)
                opened.settimeout(connection.connect_timeout_s)
                if source:
                    opened.bind(source)
                opened.connect(target)
            else:
                _wait(opened, connection.connect_timeout_s)
        except OSError as error:
            if opened is not None:
                opened.close()
            last = error
            continue
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
        return opened
    raise last


def _addresses(connection: Connection) -> list[tuple[int, int, int, _Target]]:
    found = socket.getaddrinfo(
        str(connection.address), connection.port, _FAMILIES[connection.address_family], socket.SOCK_STREAM
    )
    return [(family, kind, protocol, target) for family, kind, protocol, _, target in found]


def _wait(opened: socket.socket, timeout_s: float) -> None:
    """Wait until a connection that has begun is there. Raises OSError as `connect` does."""
    ready = select.poll()
    ready.register(opened, select.POLLOUT)
    if not ready.poll(timeout_s * 1000):
        raise TimeoutError("timed out")
    if code := opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(code, os.strerror(code))
    opened.settimeout(timeout_s)

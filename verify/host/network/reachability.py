"""Reachability of a host's addresses: listen on each of them, and connect to those of other hosts."""

from __future__ import annotations

import errno
import select
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

AT_ONCE = 64


class Listener:
    """Listens on every address of this host, on one port per kind, and answers each caller with a token."""

    def __init__(self, addresses: Sequence[str], kinds: Sequence[Sequence[int]], token: str) -> None:
        """Start to listen.

        Raises:
            OSError: One kind has no port that is free on all addresses.
        """
        self.ports: list[int] = []
        self._sockets: list[socket.socket] = []
        for ports in kinds:
            port, sockets = _listen(addresses, ports)
            self.ports.append(port)
            self._sockets += sockets
        self._token = token
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; may be called again."""
        self._stop.close()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _answer(self) -> None:
        while True:
            ready, _, _ = select.select([*self._sockets, self._stopped], [], [])
            if self._stopped in ready:
                return
            for one in ready:
                with suppress(OSError):  # the caller has disconnected
                    caller, _ = one.accept()
                    with caller:
                        caller.sendall(self._token.encode())


def free_port(addresses: Sequence[str], ports: Sequence[int]) -> int:
    """Return a free port.

    Raises:
        OSError: There is none.
    """
    port, sockets = _listen(addresses, ports)
    for one in sockets:
        one.close()
    return port


def reach(targets: Sequence[Mapping[str, Any]], own: str, *, timeout_s: float) -> list[str]:
    """Connect to each target (`address`, `ports`, `token`), and return `reached` or the problem of each.

    The token `own` answers if an address belongs to this host too, for example a bridge with the same address.
    """
    if not targets:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(targets))) as pool:
        return list(pool.map(lambda target: _probe(target, own, timeout_s), targets))


def _probe(target: Mapping[str, Any], own: str, timeout_s: float) -> str:
    for port in target["ports"]:
        try:
            token = _token_at(target["address"], port, timeout_s)
        except TimeoutError:
            return f"no answer within {timeout_s:g} s on port {port}"
        except OSError as error:
            return f"{(error.strerror or str(error)).lower()} on port {port}"
        if token != target["token"]:
            return "leads back to itself" if token == own else "leads to another host"
    return "reached"


def _token_at(address: str, port: int, timeout_s: float) -> str:
    with socket.create_connection((address, port), timeout=timeout_s) as call:
        received = b""
        while piece := call.recv(64):
            received += piece
    return received.decode(errors="replace")


def _listen(addresses: Sequence[str], ports: Sequence[int]) -> tuple[int, list[socket.socket]]:
    problem = OSError("cannot listen on any address")
    for port in ports:
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                sockets += _open(address, port)
        except OSError as error:
            for one in sockets:
                one.close()
            problem = error
        else:
            if sockets:
                return port, sockets
    raise problem


def _open(address: str, port: int) -> list[socket.socket]:
    """Open a listening socket; none for an address that cannot be used yet, such as IPv6 during duplicate detection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return [socket.create_server((address, port), family=family, backlog=AT_ONCE)]
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return []
        raise

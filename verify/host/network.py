"""Network interfaces through which other hosts may reach this one, and whether they do: listen on each address, and connect.

Interfaces are read from the kernel, because minimal systems have no `ip`.
"""

import errno
import fcntl
import ipaddress
import select
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from verify.files import read_number

FLAGS, ADDRESS, MASK = 0x8913, 0x8915, 0x891B
"""SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFNETMASK of linux/sockios.h."""
UP, LOOPBACK = 0x1, 0x8
"""IFF_UP and IFF_LOOPBACK of linux/if.h."""
GLOBAL = "00"
"""Scope of addresses in /proc/net/if_inet6 that other hosts can use."""
AT_ONCE = 64
INTERFACE_VARIABLES = {"NCCL_SOCKET_IFNAME": "={}", "GLOO_SOCKET_IFNAME": "{}"}
"""Variables that name an interface. NCCL takes a name without `=` as the beginning of names."""


def interfaces() -> list[dict[str, Any]]:
    """Return each external interface that is up and has an address: `name`, `address`, `network`, `mtu`, `mbit_s`.

    The address is the one that NCCL and gloo announce: the first IPv4 address, otherwise an IPv6 address. `mtu` is in
    bytes; `mbit_s` is the link speed in Mbit/s, None if the kernel does not know it.
    """
    six = dict(_global_six())
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            (flags,) = struct.unpack_from("h", _ask(asking, FLAGS, name), 16)
            at = _four(asking, name) or six.get(name)
            if flags & UP and not flags & LOOPBACK and at:
                found.append(
                    {
                        "name": name,
                        "address": str(at.ip),
                        "network": str(at.network),
                        "mtu": _number(name, "mtu"),
                        "mbit_s": _number(name, "speed"),
                    }
                )
    return found


def interface_variables(interface: str) -> dict[str, str]:
    """Return the environment variables by which processes use an interface."""
    return {name: text.format(interface) for name, text in INTERFACE_VARIABLES.items()}


def interface_of(address: str) -> str | None:
    """Return the interface with an address; None where none has it as its first IPv4 one or as one of IPv6."""
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        return next((name for name, at in _global_six() if at.ip == wanted), None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        found = ((name, _four(asking, name)) for _, name in socket.if_nameindex())
        return next((name for name, at in found if at and at.ip == wanted), None)


def own_name_leads_to() -> str | None:
    """Return the address of this host's own name, which gloo announces by default; None if it does not resolve."""
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def ephemeral_ports() -> list[int]:
    """Return the first and last ephemeral port: gloo and NCCL listen there."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    return [int(word) for word in text.split()]


def _four(asking: socket.socket, name: str) -> ipaddress.IPv4Interface | None:
    try:
        address, mask = (socket.inet_ntoa(_ask(asking, what, name)[20:24]) for what in (ADDRESS, MASK))
    except OSError:  # it has no IPv4 address
        return None
    return ipaddress.IPv4Interface(f"{address}/{mask}")


def _ask(asking: socket.socket, what: int, name: str) -> bytes:
    return fcntl.ioctl(asking.fileno(), what, struct.pack("256s", name.encode()))


def _global_six() -> Iterator[tuple[str, ipaddress.IPv6Interface]]:
    with suppress(OSError):  # a kernel without IPv6
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, _, length, scope, _, name = line.split()
            if scope == GLOBAL:
                yield name, ipaddress.IPv6Interface((bytes.fromhex(digits), int(length, 16)))


def _number(name: str, what: str) -> int | None:
    """Read a figure of /sys; None if the kernel returns -1 or an error because it does not know it."""
    number = read_number(Path("/sys/class/net", name, what))
    return number if number and number > 0 else None


class Listener:
    """Listens on every address of this host, on one port per kind, and answers each caller with a token."""

    def __init__(self, addresses: Sequence[str], kinds: Sequence[Sequence[int]], token: str) -> None:
        """Start to listen. Raises OSError where no port of one kind is free on all addresses."""
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
    """Return a free port. Raises OSError where there is none."""
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
            with socket.create_connection((target["address"], port), timeout=timeout_s) as call:
                token = call.makefile(errors="replace").read()
        except TimeoutError:
            return f"no answer within {timeout_s:g} s on port {port}"
        except OSError as error:
            return f"{(error.strerror or str(error)).lower()} on port {port}"
        if token != target["token"]:
            return "leads back to itself" if token == own else "leads to another host"
    return "reached"


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

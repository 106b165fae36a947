"""Network interfaces through which other hosts may reach this one, read from the kernel: minimal systems have no `ip`."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

FLAGS, ADDRESS, MASK = 0x8913, 0x8915, 0x891B
"""SIOCGIFFLAGS, SIOCGIFADDR, SIOCGIFNETMASK of linux/sockios.h."""
UP, LOOPBACK = 0x1, 0x8
"""IFF_UP and IFF_LOOPBACK of linux/if.h."""
GLOBAL = "00"
"""Scope of addresses in /proc/net/if_inet6 that other hosts can use."""


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
    try:
        number = int(Path("/sys/class/net", name, what).read_text())
    except (OSError, ValueError):
        return None
    return number if number > 0 else None

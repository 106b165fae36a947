"""Who listens on a port."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from .processes import Process, describe, read_process


def port_problem(bind: str, port: int) -> str | None:
    """Return None when the port is free; else who has it, as far as this user may see."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As uvicorn binds: connections of the last server in TIME_WAIT do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((bind, port))
            probe.listen(1)
    except OSError as problem:
        if problem.errno != errno.EADDRINUSE:
            return f"cannot listen on {bind} port {port}: {problem.strerror}"
        owners = [describe(process) for process in listeners(port)]
        return f"port {port} is held by {' and '.join(owners) or 'a process of another user'}"
    return None


def listeners(port: int) -> list[Process]:
    """Return the processes that listen on a port, as far as their descriptors may be read."""
    inodes = set(listening_inodes(port))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and inodes & set(socket_inodes(entry)):
            process = read_process(int(entry.name))
            if process is not None:
                found.append(process)
    return found


def listening_inodes(port: int) -> Iterator[str]:
    """Yield socket inodes of listeners (state 0A) on a port, from both tables of the kernel."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def socket_inodes(process: Path) -> Iterator[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                yield target[8:-1]

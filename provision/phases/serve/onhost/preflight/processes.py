"""Processes as /proc describes them, and which of them listens on a port."""

from __future__ import annotations

import contextlib
import errno
import pwd
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    uid: int
    title: str
    start_ticks: int


def read_process(pid: int) -> Process | None:
    """Return a process from /proc; None when it is gone or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        uid = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
    # The name is in parentheses and may contain any character; after the last one come fields 3 and on.
    name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 1 :].split()
    if fields[0] == "Z":
        return None
    return Process(pid=pid, parent=int(fields[1]), uid=uid, title=title or name, start_ticks=int(fields[19]))


def all_processes() -> dict[int, Process]:
    found = (read_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {process.pid: process for process in found if process is not None}


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def describe(process: Process) -> str:
    return f"{process.title.split(' --')[0][:80]} (pid {process.pid}, user {user_name(process.uid)})"


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

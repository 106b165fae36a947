"""Processes as /proc describes them, and which of them listens on a port."""

from __future__ import annotations

import errno
import pwd
import socket
from dataclasses import dataclass
from pathlib import Path

from verify.serving.processes import listeners
from verify.serving.service import all_pids, stat_fields


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    uid: int
    title: str
    start_ticks: int


def read_process(pid: int) -> Process | None:
    """Return a process from /proc; None when it is gone or is a zombie."""
    fields, folder = stat_fields(pid), Path(f"/proc/{pid}")
    if not fields or fields[0] == "Z":
        return None
    try:
        title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        title = title or (folder / "comm").read_text(errors="replace").strip()
        return Process(pid, int(fields[1]), folder.stat().st_uid, title, start_ticks=int(fields[19]))
    except OSError:
        return None


def all_processes() -> dict[int, Process]:
    return {process.pid: process for process in map(read_process, all_pids()) if process is not None}


def describe(process: Process) -> str:
    try:
        user = pwd.getpwuid(process.uid).pw_name
    except KeyError:
        user = str(process.uid)
    return f"{process.title.split(' --')[0][:80]} (pid {process.pid}, user {user})"


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
        holders = {holder.pid for one in listeners(port, ()) for holder in one.holders}
        owners = [describe(process) for process in map(read_process, sorted(holders)) if process is not None]
        return f"port {port} is held by {' and '.join(owners) or 'a process of another user'}"
    return None

"""Processes as /proc describes them, who listens on a port, and engine processes whose server is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from verify.files import read_json
from verify.serving.processes import listeners
from verify.serving.service import stat_fields

TERMINATE_S, KILL_S = 2.0, 30.0
"""Seconds until a signal has ended a process. An engine without its server ignores SIGTERM (vLLM 0.32.0), so waiting longer does not
help; after SIGKILL the kernel still gives back the memory of the process and of its GPUs."""


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
        holders = {holder.pid for one in listeners(port) for holder in one.holders}
        owners = [describe(process) for process in map(read_process, sorted(holders)) if process is not None]
        return f"port {port} is held by {' and '.join(owners) or 'a process of another user'}"
    return None


def recorded_processes(prefix: Path) -> list[Process]:
    """Return the living engine processes that wrote a proof of their attention back end."""
    notes = (read_json(path) for path in (prefix / "run").glob("attention-*.json"))
    return [
        process
        for note in notes
        if (process := read_process(note.get("pid", 0))) and process.start_ticks == note.get("start_ticks")
    ]


def remove_stale_proofs(prefix: Path) -> None:
    """Remove the proofs of processes that are gone, so that the folder does not grow with every start."""
    living = {str(process.pid) for process in recorded_processes(prefix)}
    for path in (prefix / "run").glob("attention-*.json"):
        if path.stem.removeprefix("attention-") not in living:
            with contextlib.suppress(OSError):
                path.unlink()


def find_orphans(prefix: Path, user: str) -> list[Process]:
    """Return engine processes of that user that an earlier start recorded and whose server is gone, oldest first.

    A process with a living server above it is never returned: it is in use.
    """

    def served(process: Process) -> bool:
        above = read_process(process.parent)
        while above is not None and above.title.startswith("VLLM::"):
            above = read_process(above.parent)
        return above is not None and "/vllm serve " in f"{above.title} "

    account = pwd.getpwnam(user).pw_uid
    ours = (one for one in recorded_processes(prefix) if one.uid == account and one.title.startswith("VLLM::"))
    return sorted((one for one in ours if not served(one)), key=lambda process: process.start_ticks)


def end_processes(processes: list[Process]) -> list[Process]:
    """End processes, first by SIGTERM, then by SIGKILL. Return those that are still there."""
    for number, wait_s in ((signal.SIGTERM, TERMINATE_S), (signal.SIGKILL, KILL_S)):
        for process in processes:
            send_signal(process, number)
        deadline = time.monotonic() + wait_s
        while processes and time.monotonic() < deadline:
            processes = [process for process in processes if is_there(process)]
            time.sleep(0.05)
    return processes


def is_there(process: Process) -> bool:
    """Return whether a process has not ended; it may have got another parent, and another title."""
    found = read_process(process.pid)
    return found is not None and found.start_ticks == process.start_ticks


def send_signal(process: Process, number: signal.Signals) -> None:
    """Send a signal through a process descriptor, so that a reused PID is never hit."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if is_there(process):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)

"""Processes as /proc describes them, who listens on a port, and engine processes whose server is gone."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import signal
import socket
import time
from pathlib import Path

from verify.files import read_json
from verify.serving.processes import Process, listeners, read
from verify.serving.service import start_ticks

TERMINATE_S, KILL_S = 2.0, 30.0
"""Seconds until a signal has ended a process. An engine without its server ignores SIGTERM (vLLM 0.32.0), so waiting longer does not
help; after SIGKILL the kernel still gives back the memory of the process and of its GPUs."""


def describe(process: Process) -> str:
    uid = process.status.get("Uid", "?").split()[0]
    try:
        user = pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        user = uid
    return f"{_command(process).split(' --')[0][:80]} (pid {process.pid}, user {user})"


def _command(process: Process) -> str:
    return " ".join(process.argv).strip() or process.status.get("Name", "")


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
        owners = sorted({describe(holder) for one in listeners(port) for holder in one.holders})
        return f"port {port} is held by {' and '.join(owners) or 'a process of another user'}"
    return None


def recorded_processes(prefix: Path) -> list[Process]:
    """Return the living engine processes that wrote a proof of their attention back end."""
    notes = (read_json(path) for path in (prefix / "run").glob("attention-*.json"))
    return [
        process
        for note in notes
        if (process := read(note.get("pid", 0))) and process.start_ticks == note.get("start_ticks")
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
        above = read(process.parent)
        while above is not None and _command(above).startswith("VLLM::"):
            above = read(above.parent)
        return above is not None and "/vllm serve " in f"{_command(above)} "

    account = str(pwd.getpwnam(user).pw_uid)
    engines = (one for one in recorded_processes(prefix) if _command(one).startswith("VLLM::"))
    ours = (one for one in engines if account in one.status.get("Uid", "").split()[:1])
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
    return start_ticks(process.pid) == str(process.start_ticks)


def send_signal(process: Process, number: signal.Signals) -> None:
    """Send a signal through a process descriptor, so that a reused PID is never hit."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if is_there(process):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)

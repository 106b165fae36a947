"""Engine processes of this installation whose server is gone."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import time
from pathlib import Path

from verify.files import read_json

from .processes import Process, all_processes, read_process

TERMINATE_S, KILL_S = 2.0, 30.0
"""Seconds until a signal has ended a process. An engine without its server ignores SIGTERM (vLLM 0.32.0), so waiting longer does not
help; after SIGKILL the kernel still gives back the memory of the process and of its GPUs."""
SERVICE_ACCOUNT = "firstlight"
"""The account that a system-wide installation creates: nothing else runs as it."""


def recorded_processes(prefix: Path) -> set[int]:
    """Return the living engine processes that wrote a proof of their attention back end."""
    notes = (read_json(path) for path in (prefix / "run").glob("attention-*.json"))
    return {
        process.pid
        for note in notes
        if (process := read_process(note.get("pid", 0))) and process.start_ticks == note.get("start_ticks")
    }


def remove_stale_proofs(prefix: Path) -> None:
    """Remove the proofs of processes that are gone, so that the folder does not grow with every start."""
    living = recorded_processes(prefix)
    for path in (prefix / "run").glob("attention-*.json"):
        if path.stem.removeprefix("attention-") not in map(str, living):
            with contextlib.suppress(OSError):
                path.unlink()


def find_orphans(prefix: Path, user: str) -> list[Process]:
    """Return engine and worker processes of ours whose server is gone, oldest first.

    A process with a living server above it is never returned: it is in use.
    """
    processes = all_processes()
    recorded = recorded_processes(prefix)
    try:
        account = pwd.getpwnam(user).pw_uid
    except KeyError:
        return []

    def served(process: Process) -> bool:
        above = processes.get(process.parent)
        while above is not None and above.title.startswith("VLLM::"):
            above = processes.get(above.parent)
        return above is not None and "/vllm serve " in f"{above.title} "

    found = [
        process
        for process in processes.values()
        if process.title.startswith("VLLM::")
        and process.uid == account
        and (process.pid in recorded or user == SERVICE_ACCOUNT)
        and not served(process)
    ]
    return sorted(found, key=lambda process: process.start_ticks)


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

"""Detection of a service that hangs during a request. A part of ready.pyz."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .service import stat_fields

POLL_S = 1.0
STILL_S = 30.0
"""Seconds that an engine may use almost no processor time during a request: an active one uses a whole core."""
STILL_SHARE = 0.01
"""Share of one core; an idle API server uses less."""


def family(pid: int) -> dict[int, list[str]]:
    """Return a process and its descendants, each with fields 3 and following of its /proc/PID/stat."""
    everyone = {int(path.name): stat_fields(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found = {pid: everyone[pid]} if everyone.get(pid) else {}
    while below := {
        each: fields for each, fields in everyone.items() if fields and each not in found and int(fields[1]) in found
    }:
        found |= below
    return found


def stopped(pid: int) -> str | None:
    """Return a description of a service process that a signal stopped; None without one."""
    for each, fields in family(pid).items():
        if fields[0] in "Tt":
            return f"process {each} ({name_of(each)}) of the service is stopped by a signal (state {fields[0]})"
    return None


def name_of(pid: int) -> str:
    """Return the first argument of a process's command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return words[0].decode(errors="replace")[:80] or "?"


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process and its descendants have used so far."""
    return sum(int(fields[11]) + int(fields[12]) for fields in family(pid).values()) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Context manager that calls `break_off` with a reason once the service cannot answer any more."""

    def __init__(self, pid: int, break_off: Callable[[str], None]) -> None:
        self._pid = pid
        self._break_off = break_off
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        used, since = processor_seconds(self._pid), time.monotonic()
        while not self._over.wait(POLL_S):
            reason = stopped(self._pid)
            now, seconds = processor_seconds(self._pid), time.monotonic() - since
            if reason is None and seconds >= STILL_S:
                if abs(now - used) < STILL_SHARE * seconds:
                    reason = f"the service has computed nothing for {seconds:.0f} s, with a question open"
                used, since = now, time.monotonic()
            if reason is not None:
                self._break_off(reason)
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

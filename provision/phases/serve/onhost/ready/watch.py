"""Detection of a service that hangs during a request. A part of ready.pyz."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from verify.serving.processes import STOPPED
from verify.serving.service import Service, stat_fields

POLL_S = 1.0
STILL_S = 30.0
"""Seconds that an engine may use almost no processor time during a request: an active one uses a whole core."""
STILL_SHARE = 0.01
"""Share of one core; an idle API server uses less."""


def stopped(service: Service) -> str | None:
    """Return a description of a service process that a signal stopped; None without one."""
    for pid in service.pids():
        fields = stat_fields(pid)
        if fields and fields[0] in STOPPED:
            return f"process {pid} ({name_of(pid)}) of the service is stopped by a signal (state {fields[0]})"
    return None


def name_of(pid: int) -> str:
    """Return the first argument of a process's command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return words[0].decode(errors="replace")[:80] or "?"


class Watch:
    """Context manager that calls `break_off` with a reason once the service cannot answer any more."""

    def __init__(self, service: Service, break_off: Callable[[str], None]) -> None:
        self._service = service
        self._break_off = break_off
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        used, since = self._service.cpu_seconds(), time.monotonic()
        while not self._over.wait(POLL_S):
            reason = stopped(self._service)
            now, seconds = self._service.cpu_seconds(), time.monotonic() - since
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

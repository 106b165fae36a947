"""Detection of a service that hangs during a request. A part of ready.pyz."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from verify.serving.client import Client
from verify.serving.processes import STOPPED, read
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
        if fields and fields[0] == STOPPED:
            process = read(pid)
            name = process.argv[0][:80] if process else ""
            return f"process {pid} ({name or '?'}) of the service is stopped by a signal (state {fields[0]})"
    return None


@contextmanager
def watched(service: Service, clients: Sequence[Client]) -> Iterator[None]:
    """Break off requests of clients, which ask without a pause, once the service cannot answer any more."""
    over = threading.Event()

    def look() -> None:
        used, since = service.cpu_seconds(), time.monotonic()
        while not over.wait(POLL_S):
            reason = stopped(service)
            now, seconds = service.cpu_seconds(), time.monotonic() - since
            if reason is None and seconds >= STILL_S:
                if abs(now - used) < STILL_SHARE * seconds:
                    reason = f"the service has computed nothing for {seconds:.0f} s, with a question open"
                used, since = now, time.monotonic()
            if reason is not None:
                for client in clients:
                    client.break_off(reason)
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

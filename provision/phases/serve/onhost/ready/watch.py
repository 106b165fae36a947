"""Whether the service's processes are at work while an answer is waited for. A part of ready.pyz."""

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
"""So long an engine that is asked may use next to no processor time: one that computes or compiles uses a whole core."""
STILL_SHARE = 0.01
"""Of one core; an idle API server uses less."""


def family(pid: int) -> dict[int, list[str]]:
    """A process and those below it, each with the fields 3 and on of its /proc/PID/stat."""
    everyone = {int(path.name): stat_fields(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found = {pid: everyone[pid]} if everyone.get(pid) else {}
    while below := {
        each: fields for each, fields in everyone.items() if fields and each not in found and int(fields[1]) in found
    }:
        found |= below
    return found


def stopped(pid: int) -> str | None:
    """The process of the service that a signal stopped, in words; null where none is."""
    for each, fields in family(pid).items():
        if fields[0] in "Tt":
            return f"process {each} ({name_of(each)}) of the service is stopped by a signal (state {fields[0]})"
    return None


def name_of(pid: int) -> str:
    """The command line's first word."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return words[0].decode(errors="replace")[:80] or "?"


def processor_seconds(pid: int) -> float:
    """What a process and those below it have used of the processors so far."""
    return sum(int(fields[11]) + int(fields[12]) for fields in family(pid).values()) / os.sysconf("SC_CLK_TCK")


class Watch:
    """While it is entered, `break_off` is called with the reason once the service can be seen to answer no more."""

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

"""Processes of a server that a signal has stopped: the others wait for them without an end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

LOOK_S = 1.0
"""Interval between two looks."""
PATIENCE_S = 5.0
"""A process that is stopped for longer counts as lost, as a silent host does."""


class StoppedProcesses:
    """Looks at a process and those below it from time to time.

    A process under a debugger has another state, and does not count.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._next = 0.0
        self._since: dict[int, float] = {}

    def look(self) -> int | None:
        """Return a process that has been stopped for too long; None where there is none."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + LOOK_S
        self._since = {pid: self._since.get(pid, now) for pid in below(self._pid) if state_of(pid) == "T"}
        return next((pid for pid, since in self._since.items() if now - since >= PATIENCE_S), None)


def below(pid: int) -> Iterator[int]:
    """Yield a process and those below it. A kernel without lists of children has only the process itself."""
    yield pid
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # it has ended
            continue
        for child in children:
            yield from below(int(child))


def state_of(pid: int) -> str | None:
    """Return the letter of a process's state (proc(5)); None where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None

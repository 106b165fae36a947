"""Processes of a server that have ended, or that a signal has stopped: the others wait for them, some of them without an end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from provision.phases.serve.onhost.shared.engine import look_at_process

LOOK_S = 1.0
"""Interval between two looks."""
PATIENCE_S = 5.0
"""A process that is stopped for longer counts as lost, as a silent host does."""


class WatchedProcesses:
    """Looks from time to time at a process and those below it, of which those with certain titles may not end alone.

    A process under a debugger has another state than a stopped one, and is left alone.
    """

    def __init__(self, pid: int, titles: Sequence[str]) -> None:
        self._pid, self._titles = pid, tuple(titles)
        self._next = 0.0
        self._since: dict[int, float] = {}
        self._needed: dict[int, str] = {}

    def look(self) -> str | None:
        """Return what is wrong with one of the processes; None while nothing is."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + LOOK_S
        found = {pid: seen for pid in set(below(self._pid)) if (seen := look_at_process(pid)) is not None}
        # One that ended, and that nobody has waited for, has no title any more.
        titles = {pid: title for pid, (title, _, _) in found.items() if title.startswith(self._titles)}
        ended = next((pid for pid in self._needed if pid not in titles), None)
        if ended is not None:
            return f"process {ended} ({self._needed[ended]}) of the server of this one has ended"
        self._needed = titles
        self._since = {pid: self._since.get(pid, now) for pid, (_, _, state) in found.items() if state == "T"}
        stopped = next((pid for pid, since in self._since.items() if now - since >= PATIENCE_S), None)
        return f"a signal has stopped process {stopped} of the server of this one" if stopped is not None else None


def below(pid: int) -> Iterator[int]:
    """Yield a process and those below it. A kernel without lists of children has only the process itself."""
    yield pid
    children: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += (thread / "children").read_text().split()
    for child in children:
        yield from below(int(child))

"""The programs that a host serves with: vLLM's server, Ray, or both. They end together, with all their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from provision.phases.serve.onhost.shared.engine import look_at_process, table

from .meeting import note
from .ray import Ray

GRACE_S = 8.0
"""Time that a server has to end in when the service is stopped."""
LOOK_S = 1.0
"""Interval between two looks."""
PATIENCE_S = 5.0
"""A process that is stopped for longer counts as lost, as a silent host does."""


class Program:
    """One program, with its name in the log, in a session of its own: one signal reaches all its processes, and none of them this one."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = name
        # It waits for its guard: otherwise it would go on without one if this process were killed in between.
        held = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh", *command)
        waiting, begin = os.pipe()
        self._process = subprocess.Popen(held, env=environment, start_new_session=True, stdin=waiting)
        os.close(waiting)
        self._guarded = guard(self._process.pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(begin, b"\n")
        os.close(begin)
        self._watched = WatchedProcesses(self._process.pid, table("engine")["titles"])

    def fault(self) -> str | None:
        """Return why it is lost; None while it is not."""
        if (status := self._process.poll()) is not None:
            return f"{self._name} of this one ended with status {status}"
        return self._watched.look()

    def terminate(self) -> None:
        """Ask it to end, and give it time for that."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_S)

    def end(self) -> None:
        """End every process of its group, and those below it: Ray gives each one that it starts a group of its own."""
        others = [pid for pid in below(self._process.pid) if pid != self._process.pid]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        os.write(self._guarded, b".")


class Programs:
    """The programs of this host, each of which starts when what it needs is there.

    The command of the server is empty where another host has it; there is no Ray where vLLM starts its processes by itself.
    """

    def __init__(self, server: Sequence[str], environment: Mapping[str, str], ray: Ray | None) -> None:
        self._ray = ray
        self._environment = ray.environment(environment) if ray is not None else environment
        self._waiting: list[tuple[str, Sequence[str], Callable[[], str]]] = []
        """Name, command, and what says what it waits for."""
        self._said = ""
        self._running: list[Program] = []
        if ray is not None:
            self._waiting.append(("Ray", ray.command, ray.before_start))
        if server:
            self._waiting.append(("the server", server, ray.before_server if ray is not None else lambda: ""))

    def look(self) -> str | None:
        """Start the next one if it can start; return why one that runs is lost, None while none is."""
        if self._waiting:
            name, command, before = self._waiting[0]
            if not (missing := before()):
                self._waiting.pop(0)
                self._running.append(Program(name, command, self._environment))
            elif missing != self._said:
                note(f"{name} waits for {missing}")
                self._said = missing
        return next((lost for program in self._running if (lost := program.fault()) is not None), None)

    def end(self, *, gently: bool) -> None:
        """End all, the one that started last first; `gently`, that one gets time to end by itself."""
        for program in reversed(self._running):
            if gently and program is self._running[-1]:
                program.terminate()
            program.end()
        if self._ray is not None:
            self._ray.remove()


def guard(group: int) -> int:
    """Leave a process that kills a group when this one is gone without a word. Return the descriptor to write to when the group has ended."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        if not os.read(reading, 1):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        os._exit(0)
    os.close(reading)
    return writing


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
        titles = {pid: seen.title for pid, seen in found.items() if seen.title.startswith(self._titles)}
        ended = next((pid for pid in self._needed if pid not in titles), None)
        if ended is not None:
            return f"process {ended} ({self._needed[ended]}) of the server of this one has ended"
        self._needed = titles
        self._since = {pid: self._since.get(pid, now) for pid, seen in found.items() if seen.state == "T"}
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

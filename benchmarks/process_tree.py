"""What a process and its descendants use at most: memory, open files, threads."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVERY_S = 0.05
"""Interval between two looks; a peak between them may be missed, but for the memory of the process itself."""


@dataclass
class Peak:
    """The highest figures seen so far."""

    memory_mb: float = 0.0
    """Resident memory of the process itself."""
    with_children_mb: float = 0.0
    """Its own and that of all descendants, shared pages counted once for each."""
    open_files: int = 0
    """Of the process itself."""
    open_files_with_children: int = 0
    threads: int = 0
    """Of the process itself."""
    processes: int = 0

    def look(self, pid: int) -> None:
        """Look at a process once."""
        numbers = [pid, *descendants(pid)]
        own, all_memory, all_files = _status(pid), 0.0, 0
        for number in numbers:
            all_memory += _status(number).get("VmRSS", 0) / 1000
            all_files += _files(number)
        # the kernel keeps the peak of a process itself
        self.memory_mb = max(self.memory_mb, own.get("VmHWM", 0) / 1000)
        self.with_children_mb = max(self.with_children_mb, all_memory)
        self.open_files = max(self.open_files, _files(pid))
        self.open_files_with_children = max(self.open_files_with_children, all_files)
        self.threads = max(self.threads, own.get("Threads", 0))
        self.processes = max(self.processes, len(numbers))


def descendants(pid: int) -> Iterator[int]:
    """Yield the process ids of children and their children."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                yield child
                yield from descendants(child)


def _status(pid: int) -> dict[str, int]:
    """Return kB and numbers of /proc/PID/status; empty when the process is gone."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        fields = (line.split() for line in lines)
        return {words[0].rstrip(":"): int(words[1]) for words in fields if len(words) > 1 and words[1].isdigit()}
    return {}


def _files(pid: int) -> int:
    with suppress(OSError):
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return 0


@dataclass(frozen=True)
class Observed:
    """One run of a program: its end, its peaks, and its time."""

    code: int
    out: bytes
    err: bytes
    peak: Peak
    seconds: float
    cpu_s: float

    def figures(self) -> dict[str, Any]:
        """Return the figures for a result."""
        peak = {key: round(value, 1) if isinstance(value, float) else value for key, value in vars(self.peak).items()}
        return {"seconds": round(self.seconds, 2), "cpu_s": round(self.cpu_s, 2), **peak}


def observe(
    command: Sequence[str | Path], *, folder: Path, cwd: Path, environment: Mapping[str, str], limit_s: float
) -> Observed:
    """Run a program, and look at it and its descendants until it ends. CPU seconds include descendants that it waited for.

    Args:
        command: The program and its arguments.
        folder: Where its output is kept while it runs.
        cwd: Its working directory.
        environment: Variables in addition to ours.
        limit_s: Seconds after which it is ended.

    Raises:
        TimeoutError: The program exceeded the limit.
    """
    peak, started = Peak(), time.perf_counter()
    out, err = folder / "out", folder / "err"
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with out.open("wb") as out_file, err.open("wb") as err_file:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env={**ours, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
        while True:
            peak.look(process.pid)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if time.perf_counter() - started > limit_s:
                os.killpg(process.pid, signal.SIGKILL)
                os.wait4(process.pid, 0)
                raise TimeoutError(f"`{command[0]}` did not end within {limit_s:g} s")
            time.sleep(EVERY_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    cpu = usage.ru_utime + usage.ru_stime
    return Observed(process.returncode, out.read_bytes(), err.read_bytes(), peak, seconds, cpu)

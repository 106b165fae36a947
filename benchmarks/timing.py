"""Wall time of whole processes, and figures of several runs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Timed:
    """One run of a program, from its start to its end."""

    started: float
    """Seconds since the epoch."""
    seconds: float
    code: int
    out: str
    err: str

    def tail(self, length: int = 2000) -> str:
        """Return the end of its output, for messages."""
        return (self.out.strip()[-length:] + "\n" + self.err.strip()[-length:]).strip()


def timed(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    limit_s: float = 3600,
) -> Timed:
    """Run a program with these variables in addition to ours. A program that exceeds the limit is ended, which is an error.

    PYTHONDONTWRITEBYTECODE is not passed on, because users do not set it.
    Raises subprocess.TimeoutExpired.
    """
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started, before = time.time(), time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=cwd,
        env={**ours, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Timed(started, time.perf_counter() - before, process.returncode, out, err)


def figures(samples: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes, and every sample in its order, in seconds."""
    return {
        "median_s": round(statistics.median(samples), 3),
        "min_s": round(min(samples), 3),
        "max_s": round(max(samples), 3),
        "samples_s": [round(sample, 3) for sample in samples],
    }

"""What benchmarks share: the machine in a result, its storage, the time of whole processes, the command line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GIB = 2**30
QUIET_LOAD_PER_CORE = 0.25
"""Above this load other programs disturb the measurement."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of options whose help is the docstring of a benchmark, with its lines as they are."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of ascending values does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and kernel."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1),
        "arch": platform.machine(),
        "kernel": platform.release(),
        "system": _system(),
    }


def cpu_model(cpuinfo: str) -> str:
    """Return the processor's name in the text of /proc/cpuinfo; some architectures have none."""
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else "unknown"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def header(benchmark: str, distributions: Sequence[str] = ()) -> dict[str, Any]:
    """Return the first keys of every result, with the present state; call it before the measurement."""
    return {
        "benchmark": benchmark,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_at_start": [round(value, 2) for value in os.getloadavg()],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in distributions}},
    }


def is_quiet(result: dict[str, Any]) -> bool:
    """Return whether the machine was quiet when the measurement began."""
    one_minute, cores = float(result["load_at_start"][0]), int(result["machine"]["cores"] or 1)
    return one_minute <= QUIET_LOAD_PER_CORE * cores


def publish(result: dict[str, Any], name: str, *, always: bool = False) -> None:
    """Print a result, and store it as benchmarks/results/NAME.json if the machine was quiet, or `always` if load has no effect on it."""
    text = json.dumps(result, indent=2)
    print(text)
    if always or is_quiet(result):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    else:
        load, cores = result["load_at_start"][0], result["machine"]["cores"]
        say(f"not kept: the load was {load} on {cores} cores at the start; measure on a quiet machine")


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
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    stdin: str = "",
    limit_s: float = 3600,
) -> Timed:
    """Run a program with these variables in addition to ours, and time it.

    PYTHONDONTWRITEBYTECODE is not passed on, because users do not set it.

    Raises:
        subprocess.TimeoutExpired: The program exceeded the limit; it was ended with its children.
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

"""The machine of a measurement: its hardware, its versions, and whether it was quiet; and the storage of results."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GIB = 2**30
QUIET_LOAD_PER_CORE = 0.25
"""Above this load other programs compute and disturb the measurement."""


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


def wait_until_idle(limit_s: float = 15.0) -> None:
    """Wait until nine tenths of half a second of all processors were idle, so that what ran before has ended; at most `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        idle, total = _processor_times()
        time.sleep(0.5)
        idle_now, total_now = _processor_times()
        if idle_now - idle >= 0.9 * (total_now - total):
            return


def _processor_times() -> tuple[int, int]:
    """Return the idle time and the whole time of all processors since the boot, in the kernel's ticks."""
    times = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]]
    return times[3] + times[4], sum(times[:8])


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)

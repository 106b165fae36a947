"""The service of the installation that is checked: where it answers, and which processes it is made of."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked on the loopback, not listened on
KEY = "VLLM_API_KEY="


@dataclass(frozen=True)
class Service:
    """What serves from an installation, as `state.json` and /proc tell of it."""

    prefix: Path
    readiness: Mapping[str, Any]
    """What ready.pyz is asked to prove it."""
    main_pid: int | None
    """Null while it does not run."""

    @property
    def name(self) -> str:
        """The unit, or the program of its supervisor."""
        return str(self.readiness["unit"])

    @property
    def url(self) -> str:
        """Where it answers, without a path."""
        host = EVERY_ADDRESS.get(self.readiness["host"], self.readiness["host"])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.readiness['port']}"

    def api_key(self) -> str | None:
        """Null where the endpoint wants none. Raises OSError where this user may not read it."""
        lines = (self.prefix / "etc" / "service.env").read_text().splitlines()
        values = [line.removeprefix(KEY).strip("\"'") for line in lines if line.startswith(KEY)]
        return values[-1] if values else None

    def cores(self, over_s: float) -> float:
        """How many cores its processes kept busy over some seconds, which this waits for."""
        before = self.cpu_seconds()
        time.sleep(over_s)
        return max(0.0, self.cpu_seconds() - before) / over_s

    def cpu_seconds(self) -> float:
        """What its living processes have had of the CPUs since they began."""
        return sum(map(_ticks, self.pids())) / os.sysconf("SC_CLK_TCK")

    def pids(self) -> tuple[int, ...]:
        """The server's process and all that it started, now."""
        parents = dict(_parents())
        return tuple(pid for pid in parents if self.main_pid in _line(pid, parents))


def find(prefix: Path | None) -> Service | None:
    """The service of the environment that is live under a prefix; null where it serves nothing."""
    if prefix is None:
        return None
    try:
        state = json.loads((prefix / "state.json").read_text())
    except (OSError, ValueError):
        return None
    readiness = state.get("readiness")
    if not isinstance(readiness, dict) or state.get("environment") != (prefix / "current").resolve().name:
        return None
    return Service(prefix, readiness, _main_pid(prefix))


def start_ticks(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since boot: with it a number names one process and no later one."""
    fields = stat_fields(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _main_pid(prefix: Path) -> int | None:
    """The oldest process that runs the live environment's `vllm serve`, whoever started it."""
    command = [str(prefix / "current/bin/vllm").encode(), b"serve"]
    for pid in _numbers():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(words[place : place + 2] == command for place in range(2)):
            return pid
    return None


def _numbers() -> list[int]:
    return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _ticks(pid: int) -> int:
    """Time of the CPUs that a process has had, in the kernel's ticks."""
    fields = stat_fields(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _parents() -> Iterator[tuple[int, int]]:
    """Each process with the one that it is a child of."""
    for pid in _numbers():
        if fields := stat_fields(pid):
            yield pid, int(fields[1])


def stat_fields(pid: int) -> list[str]:
    """Fields 3 and on of /proc/PID/stat; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _line(pid: int, parents: Mapping[int, int]) -> list[int]:
    """A process and all that it descends from."""
    found = []
    while pid > 1 and pid not in found:
        found.append(pid)
        pid = parents.get(pid, 0)
    return found

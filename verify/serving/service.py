"""The service of the checked installation: its endpoint and processes."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.serving.client import Endpoint

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - requests go to the loopback
KEY = "VLLM_API_KEY="


@dataclass(frozen=True)
class Service:
    """The service of an installation, from `state.json` and /proc."""

    prefix: Path
    readiness: Mapping[str, Any]
    """Request for the proof of ready.pyz."""
    main_pid: int | None
    """None while it does not run."""

    @property
    def name(self) -> str:
        """Name of the unit, or of the supervisor's program."""
        return str(self.readiness["unit"])

    @property
    def task(self) -> str:
        """What the model makes: text (`generate`), embeddings (`embed`), or scores of pairs of texts (`score`)."""
        return str(self.readiness.get("task", "generate"))

    @property
    def endpoint(self) -> Endpoint:
        """Its endpoint, as its own host reaches it."""
        host = EVERY_ADDRESS.get(self.readiness["host"], self.readiness["host"])
        return Endpoint(host, self.readiness["port"], self.readiness["served_name"])

    @property
    def url(self) -> str:
        """URL of the endpoint, without a path."""
        host = self.endpoint.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.endpoint.port}"

    def api_key(self) -> str | None:
        """Key of the endpoint; None if it needs none. Raises OSError where this user may not read it."""
        lines = (self.prefix / "etc" / "service.env").read_text().splitlines()
        values = [line.removeprefix(KEY).strip("\"'") for line in lines if line.startswith(KEY)]
        return values[-1] if values else None

    def cores(self, over_s: float) -> float:
        """Measure how many cores its processes keep busy; blocks for `over_s`."""
        before = self.cpu_seconds()
        time.sleep(over_s)
        return max(0.0, self.cpu_seconds() - before) / over_s

    def cpu_seconds(self) -> float:
        """Return the CPU time of its processes since their start, with that of processes which they started and which have ended."""
        found = filter(None, map(stat_fields, self.pids()))
        # A compiler that ends must not make the sum smaller: it counts on with its parent.
        return sum(sum(map(int, fields[11:15])) for fields in found) / os.sysconf("SC_CLK_TCK")

    def pids(self) -> tuple[int, ...]:
        """Return the server's process and all its descendants."""
        parents = {pid: int(fields[1]) for pid in all_pids() if (fields := stat_fields(pid))}
        return tuple(pid for pid in parents if self.main_pid in _line(pid, parents))


def find(prefix: Path | None) -> Service | None:
    """Return the service of the live environment; None if there is none."""
    state = read_json(prefix / "state.json") if prefix else {}
    readiness = state.get("readiness")
    if (
        prefix is None
        or not isinstance(readiness, dict)
        or state.get("environment") != (prefix / "current").resolve().name
    ):
        return None
    return Service(prefix, readiness, _main_pid(prefix))


def start_ticks(pid: int) -> str | None:
    """Return a process's start in ticks since boot, which distinguishes it from later ones with the same PID."""
    fields = stat_fields(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _main_pid(prefix: Path) -> int | None:
    """Return the oldest process that runs `vllm serve` of the live environment, whoever started it."""
    command = [str(prefix / "current/bin/vllm").encode(), b"serve"]
    for pid in all_pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(words[place : place + 2] == command for place in range(2)):
            return pid
    return None


def all_pids() -> list[int]:
    """Return the processes of the host."""
    return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def stat_fields(pid: int) -> list[str]:
    """Return fields 3 and later of /proc/PID/stat; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _line(pid: int, parents: Mapping[int, int]) -> list[int]:
    """Return a process and its ancestors."""
    found = []
    while pid > 1 and pid not in found:
        found.append(pid)
        pid = parents.get(pid, 0)
    return found

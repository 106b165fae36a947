"""Current memory of a service's processes on host and GPUs, and their open descriptors."""

import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from verify.commands import printed
from verify.serving.service import Service

KIB, MIB = 1 << 10, 1 << 20
QUERY = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
QUERY_S, EVERY_S = 15.0, 0.5
CLOSING_S = 0.2
"""A server closes a connection after its client has."""


@dataclass(frozen=True)
class Usage:
    """Bytes; `gpu` is None if nvidia-smi does not report it."""

    host: int
    gpu: int | None

    @property
    def total(self) -> int:
        return self.host + (self.gpu or 0)


def usage(service: Service) -> Usage:
    """Return the usage of all processes of a service. Shared pages count once."""
    pids = service.pids()
    return Usage(sum(map(_host_bytes, pids)), gpu_bytes(printed(QUERY, limit_s=QUERY_S, may_fail=False), pids))


def held(service: Service) -> Usage:
    """Return the usage without mapped files: how much of these counts for a process changes with other programs that map them."""
    pids = service.pids()
    host = sum(size for pid in pids for size in _sizes(pid, "status", "RssAnon:", "RssShmem:"))
    return Usage(host, gpu_bytes(printed(QUERY, limit_s=QUERY_S, may_fail=False), pids))


def open_descriptors(service: Service) -> int:
    """Return how many descriptors the processes of a service have open after the last request. Raises PermissionError."""
    time.sleep(CLOSING_S)
    total = 0
    for pid in service.pids():
        with suppress(FileNotFoundError):  # it has ended
            total += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - thousands of names, without their paths
    return total


def gpu_bytes(listed: str | None, pids: Collection[int]) -> int | None:
    """Return the GPU memory of some processes from nvidia-smi's lines `pid, MiB`; None without such a list."""
    if listed is None:
        return None
    total = 0
    for line in listed.splitlines():
        pid, _, size = line.partition(",")
        if pid.strip().isdigit() and int(pid) in pids and size.strip().isdigit():
            total += int(size) * MIB
    return total


def _host_bytes(pid: int) -> int:
    """Return a process's proportional share; its resident size if this user may not read that."""
    found = _sizes(pid, "smaps_rollup", "Pss:") or _sizes(pid, "status", "VmRSS:")
    return found[0] if found else 0


def _sizes(pid: int, file: str, *names: str) -> list[int]:
    """Return the bytes of lines of a file of /proc/PID; none if it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * KIB for line in lines if line.startswith(names)]


@contextmanager
def peak(service: Service) -> Iterator[list[Usage]]:
    """Record the peak usage within the block; the list holds it when the block has ended."""
    found: list[Usage] = []
    over = threading.Event()

    def watch() -> None:
        while True:
            now = usage(service)
            if not found or now.total > found[0].total:
                found[:] = [now]
            if over.wait(EVERY_S):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()

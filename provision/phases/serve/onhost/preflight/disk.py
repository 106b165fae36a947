"""Free space in shared memory and in the folder of the compile caches."""

from __future__ import annotations

import os
from pathlib import Path

from .report import Report

LEAST_FREE_CACHE_BYTES = 1 << 30
"""A compiled model of a few dozen layers takes some hundred MB in the caches."""
NCCL_BUFFER_BYTES = 9_637_888
"""Size of each of NCCL's shared memory segments, as NCCL's own error reports it."""
WANTED_SHARED_BYTES = 1 << 30
"""What NVIDIA's NCCL user guide gives a container (troubleshooting, shared memory); Docker's default is 64 MB."""


def check_shared_memory(cards: int, report: Report, folder: Path = Path("/dev/shm")) -> None:  # noqa: S108 - looked at, not used
    """Report shared memory that is too small for NCCL's first buffer of each GPU; note one that is merely small."""
    if cards < 2:
        return
    try:
        status = os.statvfs(folder)
    except OSError as problem:
        report.problems.append(f"cannot use {folder}, by which the processes of {cards} GPUs talk: {problem.strerror}")
        return
    free, least = status.f_bavail * status.f_frsize, cards * NCCL_BUFFER_BYTES
    state = f"{free >> 20} MiB free, by which the processes of {cards} GPUs talk"
    hint = "give the container --ipc=host or --shm-size=1g, or remove what ended processes left there"
    if free < least:
        report.problems.append(f"{folder} is too small: {state}, and {least >> 20} MiB are the least; {hint}")
    elif free < WANTED_SHARED_BYTES:
        report.notes.append(f"{folder} has {state}, and NCCL asks for 1 GiB; {hint}")


def cache_problem(prefix: Path) -> str | None:
    folder = prefix / "cache"
    try:
        status = os.statvfs(folder)
    except OSError as problem:
        return f"cannot use {folder}: {problem.strerror}"
    free = status.f_bavail * status.f_frsize
    if free < LEAST_FREE_CACHE_BYTES:
        return f"{folder} has {free >> 20} MiB free, the compile caches need {LEAST_FREE_CACHE_BYTES >> 20} MiB"
    return None

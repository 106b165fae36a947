"""Check that the server may start. Runs before each start.

    preflight.pyz --prefix P --user U [--bind A --port N] [--gpus 0,1 --memory-share 0.9 | --slice UUID]
                  [--environment-file FILE -- COMMAND ...]        # then run the server in this process (under supervisor)

Ends orphaned engine processes of this installation: processes that an earlier start of ours recorded and whose server
is gone. Then checks the port, the memory of the GPUs, the memory that processes share, and the disk space of the
caches.

Exit status 0 when the server may start, 1 with the reasons on stderr, which is the journal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import sys
from dataclasses import dataclass, field
from pathlib import Path

from verify.serving.processes import read
from verify.serving.service_plan import assignments

from .gpu_memory import CardMemory, nvidia_memory, slice_problem
from .processes import describe, end_processes, find_orphans, port_problem, remove_stale_proofs


@dataclass
class Report:
    """What the checks found. `problems` prevent the start of the server, `notes` do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_host(options: argparse.Namespace) -> Report:
    """End orphans, and run all checks."""
    report = Report()
    if orphans := find_orphans(options.prefix, options.user):
        names = ", ".join(describe(process) for process in orphans)
        left = end_processes(orphans)
        if left:
            report.problems.append(f"orphans of an earlier start do not end: {', '.join(map(describe, left))}")
        else:
            report.notes.append(f"ended orphans of an earlier start: {names}")
    remove_stale_proofs(options.prefix)
    taken = port_problem(options.bind, options.port) if options.port else None
    full = cache_problem(options.prefix)
    lost = slice_problem(options.slice) if options.slice else None
    report.problems += [problem for problem in (taken, full, lost) if problem]
    if options.gpus:
        indexes = [int(index) for index in options.gpus.split(",")]
        check_gpu_memory(nvidia_memory(), indexes, options.memory_share, report)
        check_shared_memory(len(indexes), report)
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="preflight", description="Check that the server may start.")
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--user", required=True, help="account that the server runs as")
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="of the server; none where it answers no requests")
    parser.add_argument("--gpus", default="", help="indexes of the chosen GPUs")
    parser.add_argument("--slice", default="", help="UUID of the slice of a GPU that serves")
    parser.add_argument("--memory-share", type=float, default=0.9)
    parser.add_argument("--environment-file", type=Path)
    parser.add_argument("command", nargs="*", help="after `--`: the server to run when nothing prevents it")
    options = parser.parse_args(arguments)
    report = check_host(options)
    for line in report.notes:
        sys.stderr.write(f"preflight: {line}\n")
    for line in report.problems:
        sys.stderr.write(f"preflight refuses: {line}\n")
    if report.problems:
        return 1
    if options.command:
        run_server(options.command, options.environment_file, options.user)
    return 0


def run_server(command: list[str], environment_file: Path | None, user: str) -> None:
    """Switch to the service's environment and account, and replace this process by the server."""
    environment = os.environ | (assignments(environment_file.read_text()) if environment_file else {})
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        # A container's image may have no name for the groups that own AMD's device nodes, so the account cannot be a member.
        nodes = [*Path("/dev").glob("kfd"), *Path("/dev/dri").glob("renderD*")]
        with contextlib.suppress(OSError):  # a group that a user namespace does not know
            os.setgroups(sorted({*os.getgroups(), *(node.stat().st_gid for node in nodes)} - {0}))
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # Readiness finds the lines of one start in the log by this line; the server keeps the PID.
    sys.stderr.write(f"preflight: start of {command[0]} with pid {os.getpid()}\n")
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606  # the command is the service's own, no shell is wanted


def check_gpu_memory(cards: list[CardMemory], indexes: list[int], share: float, report: Report) -> None:
    """Report chosen GPUs with less free memory than the server will request, and who holds memory of them."""
    for card in cards:
        if card.index not in indexes:
            continue
        held = ", ".join(f"{describe_holder(pid)} with {size} MiB" for pid, size in card.holders)
        if card.used > card.total * (1 - share):
            report.problems.append(
                f"GPU {card.index} has {card.total - card.used} of {card.total} MiB free, the server takes {share:.0%}; held by {held or 'no process that the driver names'}"
            )
        elif held:
            report.notes.append(f"GPU {card.index} is also used by {held}")


def describe_holder(pid: int) -> str:
    process = read(pid)
    return describe(process) if process else f"pid {pid} (outside this container)"


LEAST_FREE_CACHE_BYTES = 1 << 30
"""A compiled model of a few dozen layers takes some hundred MB in the caches."""
NCCL_BUFFER_BYTES = 9_637_888
"""Size of each of NCCL's shared memory segments, as NCCL's own error reports it."""


def check_shared_memory(cards: int, report: Report, folder: Path = Path("/dev/shm")) -> None:  # noqa: S108 - looked at, not used
    """Report shared memory that is too small for NCCL's first buffer of each GPU."""
    if cards < 2:
        return
    try:
        status = os.statvfs(folder)
    except OSError as problem:
        report.problems.append(f"cannot use {folder}, by which the processes of {cards} GPUs talk: {problem.strerror}")
        return
    free, least = status.f_bavail * status.f_frsize, cards * NCCL_BUFFER_BYTES
    if free < least:
        report.problems.append(
            f"{folder} is too small: {free >> 20} MiB free, by which the processes of {cards} GPUs talk, and {least >> 20} MiB are "
            "the least; give the container --ipc=host or --shm-size=1g, or remove what ended processes left there"
        )


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

"""What must be true on the host before the server starts; one sentence says what is not. Runs before each start.

    preflight.py --prefix P --user U --bind A --port N [--gpus 0,1 --memory-share 0.9]
                 [--json]                                        # look and tell, end nothing
                 [--environment-file FILE -- COMMAND ...]        # then become the server (under supervisor)

Ends orphaned engine processes of this installation: those that an earlier start of ours noted (or whose account serves
nothing else) and whose server is gone. Then looks at the port, at the memory of the cards, at
the memory that processes share, and at the disk of the caches.
Exit 0 when the server may start, 1 with the reasons on stderr, which is the journal. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LEAST_FREE_CACHE_BYTES = 1 << 30
"""A compiled model of a few dozen layers takes some hundred MB in the caches."""
NCCL_BUFFER_BYTES = 9_637_888
"""Of each of NCCL's shared memory segments, as its own error says when one cannot be had."""
WANTED_SHARED_BYTES = 1 << 30
"""What NVIDIA's NCCL user guide gives a container (troubleshooting, shared memory): Docker gives 64 MB unless told otherwise."""
ORPHAN_GRACE_S = 2.0
"""An engine without its server ignores SIGTERM (vLLM 0.32.0); whoever waits for it waits for nothing."""
NVIDIA_SMI_TIMEOUT_S = 15
SERVICE_ACCOUNT = "firstlight"
"""The account that a system-wide installation makes: nothing else runs as it."""


@dataclass
class Report:
    """What was found. `problems` keep the server from starting, `notes` do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    uid: int
    title: str
    start_ticks: int


def read_process(pid: int) -> Process | None:
    """What /proc says of a process; None when it is gone or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        uid = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
    # The name stands in parentheses and may hold anything; what follows the last one is fields 3 and on.
    name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 1 :].split()
    if fields[0] == "Z":
        return None
    return Process(pid=pid, parent=int(fields[1]), uid=uid, title=title or name, start_ticks=int(fields[19]))


def all_processes() -> dict[int, Process]:
    found = (read_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {process.pid: process for process in found if process is not None}


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def describe(process: Process) -> str:
    return f"{process.title.split(' --')[0][:80]} (pid {process.pid}, user {user_name(process.uid)})"


# Orphans


def noted_processes(prefix: Path) -> dict[int, int | None]:
    """Pid to start ticks of the engine processes that wrote their proof; files of dead ones are taken away."""
    noted: dict[int, int | None] = {}
    for path in (prefix / "run").glob("attention-*.json"):
        try:
            proof = json.loads(path.read_text())
            pid, ticks = int(proof["pid"]), proof["start_ticks"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        process = read_process(pid)
        if process is not None and process.start_ticks == ticks:
            noted[pid] = ticks
    return noted


def remove_stale_proofs(prefix: Path) -> None:
    """Take away the notes of processes that are gone, so that the folder does not grow with every start."""
    living = noted_processes(prefix)
    for path in (prefix / "run").glob("attention-*.json"):
        if path.stem.removeprefix("attention-") not in map(str, living):
            with contextlib.suppress(OSError):
                path.unlink()


def is_vllm(process: Process) -> bool:
    """A process that vLLM titled, or a server by its command line."""
    return process.title.startswith("VLLM::") or "/vllm serve " in f"{process.title} "


def orphans_of_ours(prefix: Path, user: str) -> list[Process]:
    """Engine and worker processes of ours whose server is gone, eldest first.

    Never one that has a living server above it: that one belongs to somebody's work.
    """
    processes = all_processes()
    noted = noted_processes(prefix)
    try:
        account = pwd.getpwnam(user).pw_uid
    except KeyError:
        return []

    def served(process: Process) -> bool:
        above = processes.get(process.parent)
        while above is not None and is_vllm(above):
            if not above.title.startswith("VLLM::"):
                return True
            above = processes.get(above.parent)
        return False

    found = [
        process
        for process in processes.values()
        if process.title.startswith("VLLM::")
        and process.uid == account
        and (process.pid in noted or user == SERVICE_ACCOUNT)
        and not served(process)
    ]
    return sorted(found, key=lambda process: process.start_ticks)


def end_processes(processes: list[Process]) -> list[Process]:
    """End each by its pid, first asked, then forced; returns those that are still there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            send_signal(process, number)
        deadline = time.monotonic() + ORPHAN_GRACE_S
        while processes and time.monotonic() < deadline:
            processes = [process for process in processes if read_process(process.pid) == process]
            time.sleep(0.05)
    return processes


def send_signal(process: Process, number: signal.Signals) -> None:
    """Through a descriptor of the process, so that a pid given anew in between is never hit."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if read_process(process.pid) == process:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


# Port


def port_problem(bind: str, port: int) -> str | None:
    """None when the port can be had; else who has it, as far as this user may see."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As uvicorn binds: connections of the last server in TIME_WAIT are no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((bind, port))
            probe.listen(1)
    except OSError as problem:
        if problem.errno != errno.EADDRINUSE:
            return f"cannot listen on {bind} port {port}: {problem.strerror}"
        owners = [describe(process) for process in listeners(port)]
        return f"port {port} is held by {' and '.join(owners) or 'a process of another user'}"
    return None


def listeners(port: int) -> list[Process]:
    """The processes that listen on a port, as far as their descriptors may be read."""
    inodes = set(listening_inodes(port))
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and inodes & set(socket_inodes(entry)):
            process = read_process(int(entry.name))
            if process is not None:
                found.append(process)
    return found


def listening_inodes(port: int) -> Iterator[str]:
    """Socket inodes of listeners (state 0A) on a port, from both tables of the kernel."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def socket_inodes(process: Path) -> Iterator[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:["):
                yield target[8:-1]


# Memory of the cards


def query_nvidia_smi(query: str) -> list[list[str]]:
    """Rows of a query of nvidia-smi; empty when there is none or it does not answer."""
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return (
        [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line]
        if done.returncode == 0
        else []
    )


@dataclass(frozen=True)
class CardMemory:
    """One card's memory in MiB, and (pid, MiB) of each process that the driver says holds some of it."""

    index: int
    total: int
    used: int
    holders: tuple[tuple[int, int], ...] = ()


def nvidia_memory() -> list[CardMemory]:
    """By nvidia-smi; none where it does not answer."""
    holders: dict[str, list[tuple[int, int]]] = {}
    for row in query_nvidia_smi("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if len(row) == 3 and row[1].isdigit():
            holders.setdefault(row[0], []).append((int(row[1]), int(row[2]) if row[2].isdigit() else 0))
    return [
        CardMemory(int(row[0]), int(row[2]), int(row[3]), tuple(holders.get(row[1], ())))
        for row in query_nvidia_smi("--query-gpu=index,uuid,memory.total,memory.used")
        if len(row) == 4 and all(row[cell].isdigit() for cell in (0, 2, 3))
    ]


def amd_memory(sys: Path = Path("/sys")) -> list[CardMemory]:
    """By the amdgpu driver's own files, in the order in which HIP counts; none where there are none. No tool is needed."""
    nodes = (sys / "class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    found: list[CardMemory] = []
    for path in sorted(nodes, key=lambda path: int(path.parent.name)):
        number = read_number(path)
        if not number:  # a processor
            continue
        properties = dict(line.split()[:2] for line in read_lines(path.parent / "properties") if " " in line)
        place, domain = int(properties.get("location_id", 0)), int(properties.get("domain", 0))
        address = f"{domain:04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"
        total, used = (
            read_number(sys / f"bus/pci/devices/{address}/mem_info_vram_{kind}") or 0 for kind in ("total", "used")
        )
        held = (
            (int(file.parent.name), (read_number(file) or 0) >> 20)
            for file in (sys / "class/kfd/kfd/proc").glob(f"*/vram_{number}")
        )
        holders = tuple((pid, size) for pid, size in held if size)
        found.append(CardMemory(len(found), total >> 20, used >> 20, holders))
    return [card for card in found if card.total]


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def read_number(path: Path) -> int | None:
    text = next(iter(read_lines(path)), "").strip()
    return int(text) if text.isdigit() else None


def gpu_memory(cards: list[CardMemory], indexes: list[int], share: float, report: Report) -> None:
    """Refuse when a chosen card has less free memory than the server will ask for; name who holds it either way."""
    for card in cards:
        if card.index not in indexes:
            continue
        held = ", ".join(f"{holder(pid)} with {size} MiB" for pid, size in card.holders)
        if card.used > card.total * (1 - share):
            report.problems.append(
                f"GPU {card.index} has {card.total - card.used} of {card.total} MiB free, the server takes {share:.0%}; held by {held or 'no process that the driver names'}"
            )
        elif held:
            report.notes.append(f"GPU {card.index} is also used by {held}")


def holder(pid: int) -> str:
    process = read_process(pid)
    return describe(process) if process else f"pid {pid} (outside this container)"


def shared_memory(cards: int, report: Report, folder: Path = Path("/dev/shm")) -> None:  # noqa: S108 - looked at, not used
    """Refuse where not even each card's first buffer fits that processes of one server exchange by; name a small one."""
    if cards < 2:
        return
    try:
        status = os.statvfs(folder)
    except OSError as problem:
        report.problems.append(f"cannot use {folder}, by which the processes of {cards} cards talk: {problem.strerror}")
        return
    free, least = status.f_bavail * status.f_frsize, cards * NCCL_BUFFER_BYTES
    said = f"{free >> 20} MiB free, by which the processes of {cards} cards talk"
    hint = "give the container --ipc=host or --shm-size=1g, or remove what ended processes left there"
    if free < least:
        report.problems.append(f"{folder} is too small: {said}, and {least >> 20} MiB are the least; {hint}")
    elif free < WANTED_SHARED_BYTES:
        report.notes.append(f"{folder} has {said}, and NCCL asks for 1 GiB; {hint}")


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


# Becoming the server


def read_environment(path: Path) -> dict[str, str]:
    """A file of KEY=VALUE lines as systemd reads EnvironmentFile=, without its line continuation."""
    values: dict[str, str] = {}
    for raw in path.read_text().splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        key, _, value = line.partition("=")
        quote = value[:1]
        if quote in {"'", '"'} and len(value) > 1 and value.endswith(quote):
            value = value[1:-1]
            if quote == '"':
                value = value.replace('\\"', '"').replace("\\\\", "\\")
        values[key] = value
    return values


def become(command: list[str], environment_file: Path | None, user: str) -> None:
    """Take on the service's environment and account, and run the server in this process's place."""
    environment = os.environ | (read_environment(environment_file) if environment_file else {})
    if os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    # The proof finds the lines of one start in the log by this one; the server keeps the pid.
    sys.stderr.write(f"preflight: start of {command[0]} with pid {os.getpid()}\n")
    sys.stderr.flush()
    os.execve(command[0], command, environment)  # noqa: S606  # the command is the service's own, no shell is wanted


def look(options: argparse.Namespace) -> Report:
    """All checks; ends orphans unless only asked to tell."""
    report = Report()
    orphans = orphans_of_ours(options.prefix, options.user)
    report.orphans = [process.pid for process in orphans]
    if orphans and not options.json:
        names = ", ".join(describe(process) for process in orphans)
        left = end_processes(orphans)
        if left:
            report.problems.append(f"orphans of an earlier start do not end: {', '.join(map(describe, left))}")
        else:
            report.notes.append(f"ended orphans of an earlier start: {names}")
    if not options.json:
        remove_stale_proofs(options.prefix)
    held = port_problem(options.bind, options.port)
    full = cache_problem(options.prefix)
    report.problems += [problem for problem in (held, full) if problem]
    if options.gpus:
        indexes = [int(index) for index in options.gpus.split(",")]
        gpu_memory(nvidia_memory() or amd_memory(), indexes, options.memory_share, report)
        shared_memory(len(indexes), report)
    return report


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check that the server may start.")
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--user", required=True, help="account that the server runs as")
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gpus", default="", help="indexes of the chosen cards")
    parser.add_argument("--memory-share", type=float, default=0.9)
    parser.add_argument("--json", action="store_true", help="tell as JSON and end nothing")
    parser.add_argument("--environment-file", type=Path)
    parser.add_argument("command", nargs="*", help="after `--`: what to become when all is well")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    report = look(options)
    if options.json:
        answer: dict[str, Any] = {"may_start": not report.problems, **asdict(report)}
        sys.stdout.write(json.dumps(answer) + "\n")
        return 1 if report.problems else 0
    for line in report.notes:
        sys.stderr.write(f"preflight: {line}\n")
    for line in report.problems:
        sys.stderr.write(f"preflight refuses: {line}\n")
    if report.problems:
        return 1
    if options.command:
        become(options.command, options.environment_file, options.user)
    return 0


if __name__ == "__main__":
    sys.exit(main())

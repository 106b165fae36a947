"""Processes of a service and their sockets, read from /proc, and what notes and proofs say about them."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.serving.service import Service, all_pids, stat_fields

LISTENS = "0A"
"""State of a listening socket in /proc/net/tcp (include/net/tcp_states.h)."""
STOPPED = "T"
"""State of a process that a signal has stopped (proc(5)). A tracer's is another one, `t`: a profiler like py-spy stops a process for
milliseconds each time, and one that a debugger holds is found by its silence."""


@dataclass(frozen=True)
class Process:
    """One process. Fields that this user may not read are empty."""

    pid: int
    parent: int
    state: str = "S"
    start_ticks: int = 0
    argv: tuple[str, ...] = ()
    executable: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    """Soft limits by the kernel's names."""
    hard_limits: Mapping[str, str] = field(default_factory=dict)
    scheduling: Mapping[str, str] = field(default_factory=dict)
    """`policy`, `nice`, `oom` (oom_score_adj) and `cpus`, as the kernel shows them (proc(5)); of services also `io`."""
    mapped: frozenset[str] = frozenset()
    """Files with mapped code, as in /proc/PID/maps."""
    sockets: frozenset[str] = frozenset()
    """Inodes."""

    @property
    def title(self) -> str:
        """Short name: the first arguments without their folders."""
        words = " ".join(word.strip().rpartition("/")[2] for word in self.argv[:3]).strip()
        return f"{words[:60] or self.executable or 'a process'} (PID {self.pid})"


@dataclass(frozen=True)
class ListeningSocket:
    """A listening socket: its address without the port, and the processes that have it open."""

    address: str
    holders: tuple[Process, ...] = ()


def read(pid: int) -> Process | None:
    """Read a process; None if it has ended or is a zombie."""
    fields, folder = stat_fields(pid), Path(f"/proc/{pid}")
    if not fields or fields[0] == "Z":
        return None
    limits, lines = _text(folder / "limits"), _text(folder / "status").splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Process(
        pid=pid,
        parent=int(fields[1]),
        state=fields[0],
        start_ticks=int(fields[19]),
        argv=tuple(_text(folder / "cmdline").rstrip("\0").split("\0")),
        executable=_link(folder / "exe"),
        environment={
            name: value
            for name, equals, value in (word.partition("=") for word in _text(folder / "environ").split("\0"))
            if equals
        },
        status=status,
        scheduling={
            "policy": fields[38],
            "nice": fields[16],
            "oom": _text(folder / "oom_score_adj").strip(),
            "cpus": status.get("Cpus_allowed_list", ""),
        },
        limits=_limits(limits, 0),
        hard_limits=_limits(limits, 1),
        mapped=mapped_code(_text(folder / "maps")),
        sockets=_sockets(folder),
    )


def read_all(pids: Iterable[int]) -> tuple[Process, ...]:
    """Read the processes that are alive."""
    return tuple(process for process in map(read, pids) if process)


def listeners(port: int) -> tuple[ListeningSocket, ...]:
    """Return the sockets that listen on a port, with the processes that have each open."""
    return tuple(socket for _, socket in all_listeners(port))


def all_listeners(only: int | None = None) -> tuple[tuple[int, ListeningSocket], ...]:
    """Return port and socket of every listener of the host, or of one port, with the processes that have it open."""
    tables = (_text(Path("/proc/net") / name) for name in ("tcp", "tcp6"))
    found = [row for table in tables for row in listening(table) if only in (None, row[1])]
    inodes = {inode for _, _, inode in found}
    holders = read_all(pid for pid in (all_pids() if found else ()) if inodes & _sockets(Path(f"/proc/{pid}")))
    return tuple(
        (port, ListeningSocket(address, tuple(one for one in holders if inode in one.sockets)))
        for address, port, inode in found
    )


def listening(table: str) -> Iterator[tuple[str, int, str]]:
    """Yield address, port and inode of each listening socket of a /proc/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, _, number = fields[1].partition(":")
        if fields[3] == LISTENS:
            # The kernel writes an address as 32-bit words in host byte order.
            words = (bytes.fromhex(address[place : place + 8])[::-1] for place in range(0, len(address), 8))
            yield str(ipaddress.ip_address(b"".join(words))), int(number, 16), fields[9]


def mapped_code(maps: str) -> frozenset[str]:
    """Return the files with code in a /proc/PID/maps; those that are no longer on the disk end with `(deleted)`."""
    rows = (line.split(maxsplit=5) for line in maps.splitlines())
    return frozenset(row[5] for row in rows if len(row) == 6 and "x" in row[1] and row[5].startswith("/"))


def _limits(text: str, column: int) -> dict[str, str]:
    """Return the limits by name. Names fill the first 26 characters of a line; soft limits are the first column."""
    return {line[:26].strip(): line[26:].split()[column] for line in text.splitlines()[1:] if line[26:].split()}


def _sockets(folder: Path) -> frozenset[str]:
    found = set()
    with suppress(OSError):
        for descriptor in (folder / "fd").iterdir():
            target = _link(descriptor)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return frozenset(found)


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def attention_notes(service: Service, processes: Iterable[Process]) -> tuple[Mapping[str, Any], ...]:
    """Return the notes of exactly these processes, by PID and start; the folder has those of earlier ones too."""
    starts = {process.pid: process.start_ticks for process in processes}
    found = (read_json(path) for path in sorted((service.prefix / "run").glob("attention-*.json")))
    return tuple(
        one
        for one in found
        if one.get("start_ticks") is not None and starts.get(one.get("pid", 0)) == one["start_ticks"]
    )


def proves_start(service: Service, main: Process) -> bool | None:
    """Return whether the last proof was of this start of the server; None if no proof can be read."""
    proven = read_json(service.prefix / "verify" / "ready.json")
    if not proven:
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = (main.pid, boot_id, main.start_ticks)
    return (proven.get("main_pid"), proven.get("boot_id"), proven.get("start_ticks")) == start

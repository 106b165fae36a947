"""Processes as /proc describes them."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    uid: int
    title: str
    start_ticks: int


def read_process(pid: int) -> Process | None:
    """Return a process from /proc; None when it is gone or is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        uid = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
    # The name is in parentheses and may contain any character; after the last one come fields 3 and on.
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

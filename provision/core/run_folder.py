"""A run's folder: where each phase's file goes, written so that a reader never sees half of one.

logs/RUN/
  run.json               who, when, the command, the process
  events.jsonl           one line an event, appended as it happens
  changes.jsonl          one line for everything that changed a host, appended as it happens
  phases.json             how each phase ended for each host
  inventory.json         hosts and settings as validated
  facts/HOST.json        probe
  plan.json              plan
  stage/HOST.json        stage, by the first host of a group (lock beside it)
  install/               install: hosts.yml for Ansible, tasks.jsonl, ansible.log
  verify/HOST.json       verify
  host_comparison.json          verify: what two hosts or more say side by side
  serve/HOST.json        serve
  findings/HOST.json     what the doctor says of a host that failed
  summary.txt .md .json  summary
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import BaseModel

from provision import __version__
from provision.core.errors import UsageError
from provision.core.json_text import parse_object
from provision.core.models.invocation import Invocation
from provision.core.redaction import redact, scrub

TEXT_AT_MOST = 8000
"""Characters of a command or of what it printed that a record keeps."""


def utc_now() -> str:
    """The time, UTC, ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_atomically(path: Path, content: bytes | str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file so that it is there whole or not at all, whenever a process is killed.

    With `durable` it also outlives a power cut from now on, for which the disk is waited for: 0.5 to 3 ms, more on a busy one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def require_writable(path: Path, option: str) -> None:
    """Raises UsageError where no file could be written to the place that an option names: before the work, not after it.

    A file is written by replacing what is there: never a device, a pipe or a folder. The folder must be there, since one
    that is made from a typing error hides it.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "it is a device, a pipe or a socket")
        if not path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder `{path.parent}`")
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UsageError(f"`{path}` cannot be written: {error.strerror}", hint=f"name another file: {option}") from None


def account() -> str:
    """The person's account; its number in a container whose user no file names."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def identity() -> dict[str, Any]:
    """Who makes a run: the person's account, also behind sudo, this machine, the process and the release."""
    return {
        "user": os.environ.get("SUDO_USER") or account(),
        "controller": platform.node(),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "release": __version__,
    }


def process_start(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since boot; null where there is none.

    Its number alone may belong to another one by now.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def is_running(header: dict[str, Any]) -> bool:
    """Whether the process that `run.json` names is still the one that made the run."""
    process = header.get("pid")
    start = process_start(process) if isinstance(process, int) else None
    return start is not None and header.get("pid_start", start) == start


def truncate(text: str, limit: int = TEXT_AT_MOST) -> str:
    """A text of at most about `limit` characters: more of its end than of its beginning, and how much is left out."""
    redacted = redact(text)  # as a whole: a secret that is cut in two is found by nobody
    if len(redacted) <= limit:
        return redacted
    head, tail = limit // 4, limit - limit // 4
    return f"{redacted[:head]}\n[{len(redacted) - limit} characters left out]\n{redacted[-tail:]}"


class RunFolder:
    """One run through the phases, as a folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self._lock = Lock()
        self._who = identity()
        self._started = time.monotonic()

    @classmethod
    def create(cls, logs: Path, *, command: str, invocation: Invocation | None = None) -> RunFolder:
        """Make a new run's folder, named by its start in UTC, and point `latest` at it."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            folder = logs / f"{stamp}{suffix}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                break
        run = cls(folder)
        header = {"run": run.name, "command": command, "started_at": utc_now(), **identity()}
        if invocation is not None:
            header["invocation"] = invocation.model_dump(mode="json")
        run.write("run.json", header)
        link = logs / f".latest.{os.getpid()}"
        link.symlink_to(folder.name)
        link.replace(logs / "latest")
        return run

    @property
    def seconds(self) -> float:
        """Seconds since this object was made, on the monotonic clock."""
        return time.monotonic() - self._started

    def path(self, name: str) -> Path:
        """The path of a file in this run."""
        return self.folder / name

    def write(self, name: str, value: BaseModel | dict[str, Any] | list[Any]) -> Path:
        """Write a record or plain value as JSON, whole or not at all; returns its path. The disk is not waited for: the summary is."""
        path = self.path(name)
        # through pydantic's own JSON: a number that JSON cannot hold is null there
        plain = json.loads(value.model_dump_json()) if isinstance(value, BaseModel) else value
        write_atomically(path, json.dumps(scrub(plain), indent=2) + "\n", durable=False)
        return path

    def event(self, kind: str, *, host: str | None = None, phase: str | None = None, **data: Any) -> None:
        """Append one event."""
        self._append("events.jsonl", {"kind": kind, "host": host, "phase": phase, **data})

    def change(self, how: str, *, host: str, output: str = "", **data: Any) -> None:
        """Append what changed a host, or may have: who asked, what was done, how it ended, what it said.

        Of a long text the beginning and the end are kept, `TEXT_AT_MOST` characters in all.
        """
        who = {"user": self._who["user"], "controller": self._who["controller"]}
        kept = {key: truncate(value) if isinstance(value, str) else value for key, value in data.items()}
        self._append("changes.jsonl", {"host": host, "by": who, "how": how, **kept, "output": truncate(output)})

    def _append(self, name: str, record: dict[str, Any]) -> None:
        """One line in one call, so that readers and a crash never split it; it is with the system when this returns."""
        line = json.dumps(scrub(json.loads(json.dumps({"at": utc_now(), **record}, default=str))))
        with self._lock, self.path(name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """All events so far; a line that is none, as the last one after a crash, is left out."""
        path = self.path("events.jsonl")
        if not path.is_file():
            return
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield parse_object(line)

"""Run folder: the path of each phase's file; files are written atomically.

logs/RUN/
  run.json               who, when, the command, the process
  events.jsonl           one line an event, appended as it happens
  changes.jsonl          one line for everything that changed a host, appended as it happens
  phases.json             how each phase ended for each host
  inventory.json         hosts and settings as validated
  facts/HOST.json        probe
  plan.json              plan
  stage/HOST.json        stage, by the first host of a group (next to its lock)
  sbom/ENVIRONMENT.cdx.json  install: what each environment that it built consists of
  install/               stage, install: hosts.yml for playbooks by hand; install: PLAYBOOK.yml, tasks.jsonl, ansible.log
  verify/HOST.json       verify
  host_comparison.json          verify: what two hosts or more say side by side
  serve/HOST.json        serve
  firewall/HOST.nft      gateway: rules that a person may load on hosts, where the run changes no firewall
  findings/HOST.json     what the doctor says of a host that failed
  summary.txt .json      summary
  green.json             names of the hosts that the summary shows as green

logs/queries/RUN has the same of a command that only read hosts.
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
from provision.core.files import write_atomically
from provision.core.json_text import indented, parse_object
from provision.core.models.invocation import Invocation
from provision.core.redaction import redact, scrub

QUERIES = "queries"
"""The folder, next to the runs, with the records of commands that only read hosts."""
HOSTS_FILE = "install/hosts.yml"
"""The installation of a run's hosts as an Ansible inventory."""
TEXT_AT_MOST = 8000
"""Maximum characters of a command or its output in a record."""


def utc_now() -> str:
    """Return the current time: UTC, ISO 8601, milliseconds."""
    return utc_of(time.time())


def utc_of(unix_s: float) -> str:
    """Return seconds since 1970 as a time: UTC, ISO 8601, milliseconds."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def require_writable(path: Path, option: str) -> None:
    """Check before the work that a file can be written to the path of an option.

    Writing replaces the file, so the path must not be a device, a pipe or a folder. The parent folder must exist: creating
    one would hide a typing error.

    Raises:
        UsageError: The file cannot be written.
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
    """Return the user's account name; its number in a container without an account entry."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def identity() -> dict[str, Any]:
    """Return who executes a run: account (also behind sudo), machine, process and release."""
    return {
        "user": os.environ.get("SUDO_USER") or account(),
        "controller": platform.node(),
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
        "release": __version__,
    }


def process_start(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None when it does not exist.

    A process id alone may have been reused.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def is_running(header: dict[str, Any]) -> bool:
    """Return whether the process in `run.json` still executes the run."""
    process = header.get("pid")
    start = process_start(process) if isinstance(process, int) else None
    return start is not None and header.get("pid_start", start) == start


def is_query(run: str) -> bool:
    """Return whether a name is that of a query, and not of a run."""
    return run.startswith(f"{QUERIES}/")


def truncate(text: str) -> str:
    """Shorten a text to about `TEXT_AT_MOST` characters: more of its end than of its beginning, with the number of omitted ones."""
    redacted = redact(text)  # redact before cutting: half a secret is not recognised
    if len(redacted) <= TEXT_AT_MOST:
        return redacted
    head = TEXT_AT_MOST // 4
    left_out = len(redacted) - TEXT_AT_MOST
    return f"{redacted[:head]}\n[{left_out} characters left out]\n{redacted[head + left_out :]}"


class RunFolder:
    """Folder of one run. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        of_query = folder.parent.name == QUERIES
        self.name = f"{QUERIES}/{folder.name}" if of_query else folder.name
        self.logs = folder.parents[1] if of_query else folder.parent
        """The folder of all runs."""
        self._lock = Lock()
        self._who = identity()
        self._started = time.monotonic()

    @classmethod
    def create(
        cls, logs: Path, *, command: str, invocation: Invocation | None = None, is_query: bool = False
    ) -> RunFolder:
        """Create the folder of a new run, named by its start in UTC, and point `latest` next to it at it.

        Args:
            invocation: What a suggested command has to repeat.
            is_query: Whether the command only reads hosts; its folder is among the queries then.
        """
        among = logs / QUERIES if is_query else logs
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            folder = among / f"{stamp}{suffix}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir(parents=True)
                break
        run = cls(folder)
        header = {"run": run.name, "command": command, "started_at": utc_now(), **identity()}
        if invocation is not None:
            header["invocation"] = invocation.model_dump(mode="json")
        run.write("run.json", header)
        link = among / f".latest.{os.getpid()}"
        link.symlink_to(folder.name)
        link.replace(among / "latest")
        return run

    @property
    def seconds(self) -> float:
        """Return the seconds since this object was created."""
        return time.monotonic() - self._started

    def path(self, name: str) -> Path:
        """Return the path of a file in this run."""
        return self.folder / name

    def write(self, name: str, value: BaseModel | dict[str, Any] | list[Any], *, by_names: bool = False) -> Path:
        """Write a record or plain value, or values `by_names` of hosts, as JSON, atomically and without waiting for the disk. Return the path."""
        path = self.path(name)
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        write_atomically(path, indented(scrub(plain, by_names=by_names)) + "\n", durable=False)
        return path

    def event(self, kind: str, *, host: str | None = None, phase: str | None = None, **data: Any) -> None:
        """Append one event."""
        self._append("events.jsonl", {"kind": kind, "host": host, "phase": phase, **data})

    def change(self, how: str, *, host: str, output: str = "", **data: Any) -> None:
        """Append a change of a host to changes.jsonl: who, what, result and output.

        Long texts are shortened to `TEXT_AT_MOST` characters.
        """
        who = {"user": self._who["user"], "controller": self._who["controller"]}
        kept = {key: truncate(value) if isinstance(value, str) else value for key, value in data.items()}
        self._append("changes.jsonl", {"host": host, "by": who, "how": how, **kept, "output": truncate(output)})

    def _append(self, name: str, record: dict[str, Any]) -> None:
        """Append one line in a single write, so that it is never split; it has reached the system on return."""
        plain = json.loads(json.dumps({"at": utc_now(), **record}, default=str))
        line = (json.dumps(scrub(plain)) + "\n").encode()
        with self._lock, self.path(name).open("ab", buffering=0) as file:
            file.write(line)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield all events so far; malformed lines, such as the last one after a crash, are skipped."""
        path = self.path("events.jsonl")
        if not path.is_file():
            return
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield parse_object(line)

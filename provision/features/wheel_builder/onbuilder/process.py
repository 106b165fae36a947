"""Processes that are run to their end, watched, and killed with all children when the controller is gone."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, Callable, Mapping, Sequence  # noqa: UP035 (for Python 3.8)

TERM_S = 2.0
"""Seconds that a build has to end before it is killed. The controller waits five."""

Watcher = Callable[[str], None]


class CancelledError(Exception):
    """The controller closed our input, or this program got a signal."""


class FailedError(Exception):
    """A step failed. The text is for users; the hint has the next step."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


def send_event(event: str, **data: Any) -> None:
    """Send one line of JSON to the controller."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, **data}) + "\n")
        sys.stdout.flush()


def cancel_on_signals() -> None:
    """Turn signals into a cancellation, so that a build never outlives this program."""

    def cancel(number: int, _: Any) -> None:
        raise CancelledError(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, cancel)


def run(
    command: Sequence[str], log: IO[bytes], environ: Mapping[str, str], folder: Path, watch: Watcher | None = None
) -> list[str]:
    """Run a program with its output in the log; return the last lines. Raises FailedError or CancelledError."""
    log.write(("$ " + " ".join(command) + "\n").encode())
    process = subprocess.Popen(
        command,
        cwd=str(folder),
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    last: list[str] = []
    try:
        for line in _lines(process, log):
            last = [*last[-39:], line]
            if watch:
                watch(line)
        process.wait()
    except BaseException:
        end_session(process)
        raise
    if process.returncode:
        raise FailedError(
            f"`{Path(command[0]).name}` ended with {process.returncode}",
            "\n".join(last),
        )
    return last


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a session. ninja puts each compiler into its own process group, so ending the group is not enough."""
    for number, patience in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, TERM_S)):
        deadline = time.monotonic() + patience
        members = _members(process.pid)
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, number)
        while members and time.monotonic() < deadline:
            time.sleep(0.05)
            process.poll()
            members = _members(process.pid)
        if not members:
            break
    process.wait()
    if process.stdout:
        process.stdout.close()


def _members(session: int) -> list[int]:
    """Return the living processes of a session: field 6 of /proc/PID/stat, counted after the name, which may have blanks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            state, _, _, leader = path.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(leader) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def _lines(process: subprocess.Popen[bytes], log: IO[bytes]) -> Any:
    """Yield the lines of a program until it ends, after writing them to the log."""
    assert process.stdout
    output, rest = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = [key.fd for key, _ in selector.select()]
            if 0 in ready and not os.read(0, 4096):
                raise CancelledError("the controller is gone")
            if output in ready:
                piece = os.read(output, 1 << 16)
                log.write(piece)
                log.flush()
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole or ([rest] if rest and not piece else []):
                    yield line.decode(errors="replace")
                if not piece:
                    return

"""Programs that are run to their end, watched, and ended whole when the one who asked is gone."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Callable, Mapping, Sequence  # noqa: UP035 (for Python 3.8)

BEAT_S = 10.0
"""How often the controller hears of us, seconds: it takes a long silence for an end."""
TERM_S = 2.0
"""Time that a build has to end by itself before it is killed, seconds. The controller waits five."""

_SPEAKING = threading.Lock()

Watcher = Callable[[str], None]


class CancelledError(Exception):
    """The controller closed our input, or this program was told to end."""


class FailedError(Exception):
    """A step did not succeed. The text is for people; the hint says what to do."""

    def __init__(self, text: str, hint: str) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


def tell(event: str, **data: Any) -> None:
    """One line of JSON to the controller."""
    with _SPEAKING, contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, **data}) + "\n")
        sys.stdout.flush()


def keep_telling() -> None:
    """Let the controller hear of us whatever takes long here."""

    def beat() -> None:
        while True:
            time.sleep(BEAT_S)
            tell("alive")

    threading.Thread(target=beat, daemon=True).start()


def end_on_signals() -> None:
    """Being told to end is a cancellation, so that a build never outlives this program."""

    def cancel(number: int, _: Any) -> None:
        raise CancelledError(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, cancel)


def run(
    command: Sequence[str], log: IO[bytes], environ: Mapping[str, str], folder: Path, watch: Watcher | None = None
) -> list[str]:
    """Run a program, its output into the log, each line to `watch`; returns the last lines.

    Raises CancelledError once all of its processes are gone, FailedError when it did not end well.
    """
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


def still_wanted(timeout_s: float) -> None:
    """Wait a moment. Raises CancelledError when the controller has closed our input."""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        if selector.select(timeout_s) and not os.read(0, 4096):
            raise CancelledError("the controller is gone")


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End all processes of a session. ninja gives each compiler a process group of its own, so the group is not enough."""
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
    """Living processes of a session: field 6 of /proc/PID/stat, counted behind the name, which may hold anything."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            state, _, _, leader = path.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(leader) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def _lines(process: subprocess.Popen[bytes], log: IO[bytes]) -> Any:
    """Lines of a program's output until it ends; the log has them first."""
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

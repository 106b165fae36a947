"""A running command, over SSH or on this machine, and one exchange with it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import NamedTuple, Protocol

PIECE = 32_768


class OutputLimitError(Exception):
    """A command prints more than any answer takes."""


class Raw(NamedTuple):
    """A command's end, in bytes."""

    rc: int
    stdout: bytes
    stderr: bytes


class Process(Protocol):
    """A running command with its streams. Times in seconds."""

    def read(self, timeout_s: float) -> bytes:
        """Return the next piece of its output, empty at the end. Raises TimeoutError."""

    def read_error(self, timeout_s: float) -> bytes:
        """Return the next piece of its error output, empty at the end. Raises TimeoutError."""

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """Write to its input. Raises OSError when it reads no more, or not in time."""

    def end_input(self) -> None:
        """Close its input. Raises OSError when it has ended."""

    def wait(self, timeout_s: float) -> int:
        """Return its exit status. Raises TimeoutError, and EOFError or OSError when the connection broke."""

    def kill(self) -> None:
        """End it."""

    def close(self) -> None:
        """Release its streams; nothing uses them any more."""


def converse(process: Process, stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
    """Give a command its whole input, and return its output and exit status.

    Args:
        process: The command.
        stdin: Its input; it may end without reading all of it.
        timeout_s: Seconds until it is ended.
        limit_bytes: What it may print, to each of both outputs.

    Raises:
        TimeoutError: It did not end in time.
        OutputLimitError: It printed more.
        EOFError, OSError: The connection broke.
    """
    deadline = time.monotonic() + timeout_s
    # Three threads, so that no stream waits for another one.
    threading.Thread(target=_feed, args=(process, stdin), daemon=True).start()
    try:
        with ThreadPoolExecutor(2) as pool:
            streams = [
                pool.submit(_read_all, read, deadline, limit_bytes) for read in (process.read, process.read_error)
            ]
            try:
                wait(streams, return_when=FIRST_EXCEPTION)
                for stream in streams:
                    if stream.done():
                        stream.result()
                stdout, stderr = (stream.result() for stream in streams)
                return Raw(process.wait(max(0.0, deadline - time.monotonic())), stdout, stderr)
            except BaseException:
                process.kill()
                raise
    finally:
        process.close()


def _feed(process: Process, stdin: bytes) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError):
        process.write(stdin)
        process.end_input()


def _read_all(read: Callable[[float], bytes], deadline: float, limit_bytes: int) -> bytes:
    data = bytearray()
    while piece := read(max(0.0, deadline - time.monotonic())):
        data += piece
        if len(data) > limit_bytes:
            raise OutputLimitError
    return bytes(data)

"""A running command, over SSH or on this machine: one exchange with it, or a conversation by lines."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, NamedTuple, Protocol

PIECE = 32_768
LONGEST_S = 7 * 24 * 3600.0
"""Time limit of the command on its host: the longest duration of a run."""
_END_S = 5.0
_WRITE_S = 20.0
_ERRORS_S = 0.2


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
    """Give a command its whole input, which it need not read, and return its output and exit status.

    Raises:
        TimeoutError: It did not end in time.
        OutputLimitError: It printed more than `limit_bytes` to one of both outputs.
        EOFError, OSError: The connection broke.
    """
    deadline = time.monotonic() + timeout_s

    def read_all(read: Callable[[float], bytes]) -> bytes:
        try:
            return _read_all(read, deadline, limit_bytes)
        except BaseException:
            process.kill()  # which ends the writing and the other reading
            raise

    # Both outputs are read while the input is written, so that none of the three waits for another.
    with contextlib.closing(process), ThreadPoolExecutor(2) as pool:
        outputs = [pool.submit(read_all, read) for read in (process.read, process.read_error)]
        try:
            with contextlib.suppress(OSError, EOFError):
                process.write(stdin)
                process.end_input()
            stdout, stderr = (output.result() for output in outputs)
            return Raw(process.wait(max(0.0, deadline - time.monotonic())), stdout, stderr)
        except BaseException:
            process.kill()
            raise


def _read_all(read: Callable[[float], bytes], deadline: float, limit_bytes: int) -> bytes:
    data = bytearray()
    while piece := read(max(0.0, deadline - time.monotonic())):
        data += piece
        if len(data) > limit_bytes:
            raise OutputLimitError
    return bytes(data)


class Channel:
    """A conversation with a long-running command. The command ends when its input is closed or its connection breaks."""

    def __init__(self, process: Process, first: bytes) -> None:
        self._process = process
        self._data = b""
        self._is_closed = False
        process.write(first, _WRITE_S)

    def readline(self, *, timeout_s: float) -> str:
        """Return the next line without its end; the rest when the command ended or the time is up."""
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(TimeoutError):
            while b"\n" not in self._data:
                piece = self._process.read(max(0.0, deadline - time.monotonic()))
                if not piece:
                    break
                self._data += piece
        line, _, self._data = self._data.partition(b"\n")
        return line.decode(errors="replace")

    def writeline(self, line: str) -> None:
        """Write one line to the command's input. Raises OSError if the command has ended, or the connection broke."""
        self._process.write(f"{line}\n".encode(), _WRITE_S)

    def error_text(self) -> str:
        """Return what the command has written to stderr since the last call."""
        with contextlib.suppress(TimeoutError):
            return self._process.read_error(_ERRORS_S).decode(errors="replace").strip(" \r\n")  # not sudo's marker
        return ""

    def close(self) -> None:
        """Close the command's input and wait briefly; may be called again."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(OSError, EOFError):
            self._process.end_input()
            self._process.wait(_END_S)
        self._process.kill()
        self._process.close()


class LocalProcess(Process):
    """A command of this machine in a process session of its own: Ctrl-C does not reach it, and a time limit ends its whole group."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._input, self._output, self._errors = self._process.stdin, self._process.stdout, self._process.stderr

    def read(self, timeout_s: float) -> bytes:
        return _read(self._output, timeout_s)

    def read_error(self, timeout_s: float) -> bytes:
        return _read(self._errors, timeout_s)

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """A command on this machine is waited for."""
        del timeout_s
        left = memoryview(data)
        while left:
            left = left[self._input.write(left) :]

    def end_input(self) -> None:
        self._input.close()

    def wait(self, timeout_s: float) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)

    def close(self) -> None:
        for pipe in (self._input, self._output, self._errors):
            pipe.close()


def _read(pipe: IO[bytes], timeout_s: float) -> bytes:
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    if not ready.poll(timeout_s * 1000):
        raise TimeoutError
    return pipe.read(PIECE)

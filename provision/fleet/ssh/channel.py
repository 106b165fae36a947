"""A conversation by lines with a long-running command, which is alive while its standard input stays open."""

from __future__ import annotations

import contextlib
import time

from provision.fleet.ssh.process import Process

LONGEST_S = 7 * 24 * 3600.0
"""Time limit of the command on its host: the longest duration of a run."""
_END_S = 5.0
_WRITE_S = 20.0
_ERRORS_S = 0.2


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
        """Write one line to the command's input.

        Raises:
            OSError: The command has ended, or the connection broke.
        """
        self._process.write(f"{line}\n".encode(), _WRITE_S)

    def error_text(self) -> str:
        """Return what the command has written to stderr since the last call."""
        with contextlib.suppress(TimeoutError):
            return self._process.read_error(_ERRORS_S).decode(errors="replace").strip()
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

"""A long-running command on a host, alive while its standard input stays open."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from provision.core.models.inventory import Connection
from provision.fleet.ssh.sudo import become_password, wrap

if TYPE_CHECKING:
    import paramiko

LONGEST_S = 7 * 24 * 3600.0
"""Longest duration of a run."""
_END_S = 5.0
_WRITE_S = 20.0
_PIECE = 4096


class Channel(Protocol):
    """A running command. Closing its input ends it."""

    def readline(self, *, timeout_s: float) -> str:
        """Return the next line without its end; the rest when the command ended or the time is up."""

    def writeline(self, line: str) -> None:
        """Write one line to the command's input.

        Raises:
            OSError: The command has ended, or the connection broke.
        """

    def error_text(self) -> str:
        """Return what the command has written to stderr so far."""

    def close(self) -> None:
        """Close the command's input and wait briefly; may be called again."""


def wrapped(connection: Connection, command: str, *, root: bool) -> tuple[tuple[str, ...], bytes]:
    """Return the arguments that run a command, and the first bytes of its input."""
    password = become_password(connection) if root else None
    argv, first = wrap(command, timeout_s=LONGEST_S, root=root, password=password)
    return argv, first.encode()


class _LineReader(ABC):
    """Splits received data into lines."""

    def __init__(self) -> None:
        self._data = b""

    @abstractmethod
    def _read(self, timeout_s: float) -> bytes:
        """Return the next piece; empty at the end of the output or the time."""

    def readline(self, *, timeout_s: float) -> str:
        """See Channel.readline."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._data:
            piece = self._read(max(0.0, deadline - time.monotonic()))
            if not piece:
                break
            self._data += piece
        line, _, self._data = self._data.partition(b"\n")
        return line.decode(errors="replace")


class LocalChannel(_LineReader):
    """Command on this machine in its own process session, so that Ctrl-C does not reach it."""

    def __init__(self, argv: tuple[str, ...], first: bytes) -> None:
        super().__init__()
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
        self._input.write(first)

    def writeline(self, line: str) -> None:
        """See Channel.writeline."""
        self._input.write(f"{line}\n".encode())

    def _read(self, timeout_s: float) -> bytes:
        ready, _, _ = select.select([self._output], [], [], timeout_s)
        return os.read(self._output.fileno(), _PIECE) if ready else b""

    def error_text(self) -> str:
        """See Channel.error_text."""
        ready, _, _ = select.select([self._errors], [], [], 0.2)
        return os.read(self._errors.fileno(), _PIECE).decode(errors="replace").strip() if ready else ""

    def close(self) -> None:
        """See Channel.close."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._errors.close()


class SshChannel(_LineReader):
    """Command over the session's connection; when that breaks, the input ends on the host."""

    def __init__(self, channel: paramiko.Channel, argv: tuple[str, ...], first: bytes) -> None:
        super().__init__()
        self._channel = channel
        channel.exec_command(shlex.join(argv))
        channel.sendall(first)

    def writeline(self, line: str) -> None:
        """See Channel.writeline."""
        self._channel.settimeout(_WRITE_S)
        self._channel.sendall(f"{line}\n".encode())

    def _read(self, timeout_s: float) -> bytes:
        self._channel.settimeout(timeout_s)
        try:
            return self._channel.recv(_PIECE)
        except TimeoutError:
            return b""

    @property
    def is_closed(self) -> bool:
        """Whether the command has ended or the connection broke."""
        return self._channel.closed

    def error_text(self) -> str:
        """See Channel.error_text."""
        deadline = time.monotonic() + 0.2
        while not self._channel.recv_stderr_ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        text = self._channel.recv_stderr(_PIECE) if self._channel.recv_stderr_ready() else b""
        return text.decode(errors="replace").strip()

    def close(self) -> None:
        """See Channel.close."""
        if self._channel.closed:
            return
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()
            self._channel.status_event.wait(_END_S)
        self._channel.close()

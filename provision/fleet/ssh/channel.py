"""A command on a host that goes on beside others, for as long as its standard input stays open."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from provision.core.models.settings import Connection
from provision.fleet.ssh.sudo import become_password, wrap

if TYPE_CHECKING:
    import paramiko

LONGEST_S = 7 * 24 * 3600.0
"""A run that takes longer is not one."""
_END_S = 5.0
_WRITE_S = 20.0
_PIECE = 4096


class Channel(Protocol):
    """A running command. Ending its input is how it is told to end."""

    def readline(self, *, timeout_s: float) -> str:
        """The next line without its end; what there is when the command ended or the time is up."""

    def writeline(self, line: str) -> None:
        """Give the command one more line of input.

        Raises OSError when it has ended, or its host is gone.
        """

    def error_text(self) -> str:
        """What the command has written to its standard error so far."""

    def close(self) -> None:
        """End the command's input and wait a moment for it; harmless when called again."""


def wrapped(connection: Connection, command: str, *, root: bool) -> tuple[tuple[str, ...], bytes]:
    """The arguments that run a command, and what must come first on its input."""
    password = become_password(connection) if root else None
    argv, first = wrap(command, timeout_s=LONGEST_S, root=root, password=password)
    return argv, first.encode()


class _LineReader(ABC):
    """Lines out of pieces, whatever they arrive by."""

    def __init__(self) -> None:
        self._data = b""

    @abstractmethod
    def _read(self, timeout_s: float) -> bytes:
        """The next piece; nothing at the end of the output or of the time."""

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
    """On this machine, in a session of its own: Ctrl-C on the terminal does not reach it."""

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
    """A channel of the session's connection: when that goes, the host's end of the input goes with it."""

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

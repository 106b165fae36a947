"""Session with this machine, without SSH."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from provision.core.models.inventory import Connection
from provision.fleet.ssh.channel import Channel, ProcessChannel, wrapped
from provision.fleet.ssh.process import PIECE, Raw, converse
from provision.fleet.ssh.session import Progress, SendReport
from provision.fleet.ssh.shell import ShellSession
from provision.fleet.ssh.upload import LocalUpload

if TYPE_CHECKING:
    from provision.core.models.staged import StagedFile


class LocalProcess:
    """A command in a process session of its own: Ctrl-C does not reach it, and a time limit ends its whole group."""

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
        """See Process.read."""
        return _read(self._output, timeout_s)

    def read_error(self, timeout_s: float) -> bytes:
        """See Process.read_error."""
        return _read(self._errors, timeout_s)

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """See Process.write. A command on this machine is waited for."""
        del timeout_s
        left = memoryview(data)
        while left:
            left = left[self._input.write(left) :]

    def end_input(self) -> None:
        """See Process.end_input."""
        self._input.close()

    def wait(self, timeout_s: float) -> int:
        """See Process.wait."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def kill(self) -> None:
        """See Process.kill."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)

    def close(self) -> None:
        """See Process.close."""
        for pipe in (self._input, self._output, self._errors):
            pipe.close()


def _read(pipe: IO[bytes], timeout_s: float) -> bytes:
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    if not ready.poll(timeout_s * 1000):
        raise TimeoutError
    return pipe.read(PIECE)


class LocalSession(ShellSession):
    """Runs commands as processes of this machine."""

    def __init__(self, host: str, connection: Connection) -> None:
        super().__init__(host, connection)
        self._running: LocalProcess | None = None

    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        self._running = LocalProcess(argv)
        try:
            return converse(self._running, stdin, timeout_s, limit_bytes)
        finally:
            self._running = None

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """See Session.open_channel."""
        argv, first = wrapped(self.connection, command, root=root)
        return ProcessChannel(LocalProcess(argv), first)

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """See Session.send. Files are hard links where the file system allows it."""
        return LocalUpload(self, files, folder, progress).send()

    def rest(self) -> None:
        """See Session.rest. There is no connection."""

    def close(self) -> None:
        """See Session.close."""
        process = self._running
        if process is not None:
            process.kill()

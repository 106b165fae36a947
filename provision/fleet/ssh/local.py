"""Session with this machine, without SSH."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from provision.core.models.inventory import Connection
from provision.fleet.ssh.channel import Channel, LocalChannel, wrapped
from provision.fleet.ssh.session import Progress, SendReport
from provision.fleet.ssh.shell import OutputLimitError, Raw, ShellSession
from provision.fleet.ssh.upload import upload_locally

if TYPE_CHECKING:
    from provision.core.models.staged import StagedFile

_PIECE = 1 << 16


class LocalSession(ShellSession):
    """Runs commands in their own process groups, so that a time limit ends the whole group."""

    def __init__(self, host: str, connection: Connection) -> None:
        super().__init__(host, connection)
        self._running: subprocess.Popen[bytes] | None = None

    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._running = process
        try:
            stdout, stderr = _converse(process, stdin, time.monotonic() + timeout_s, limit_bytes)
        except BaseException:
            _end(process)
            raise
        finally:
            self._running = None
        return Raw(process.returncode, stdout, stderr)

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """See Session.send. Files are hard links where the file system allows it."""
        started = time.monotonic()
        report = upload_locally(self.host, files, Path(folder), progress)
        return SendReport(*report, seconds=time.monotonic() - started)

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """See Session.open_channel."""
        return LocalChannel(*wrapped(self.connection, command, root=root))

    def rest(self) -> None:
        """See Session.rest. There is no connection."""

    def close(self) -> None:
        """See Session.close."""
        process = self._running
        if process is not None:
            _kill_group(process)


def _converse(process: subprocess.Popen[bytes], stdin: bytes, deadline: float, limit_bytes: int) -> tuple[bytes, bytes]:
    """Send input to a process and read its output until it ends. Raises TimeoutError, OutputLimitError."""
    assert process.stdin
    assert process.stdout
    assert process.stderr
    taken = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    left = memoryview(stdin)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        for descriptor in taken:
            ready.register(descriptor, selectors.EVENT_READ)
        ready.register(process.stdin, selectors.EVENT_WRITE)
        while ready.get_map():
            events = ready.select(max(0.0, deadline - time.monotonic()))
            if not events and time.monotonic() >= deadline:
                raise TimeoutError
            for key, _ in events:
                if key.fileobj is process.stdin:
                    left = _fed(process.stdin, left)
                    if not left:
                        ready.unregister(process.stdin)
                        process.stdin.close()
                    continue
                block = os.read(key.fd, _PIECE)
                taken[key.fd] += block
                if not block:
                    ready.unregister(key.fd)
                if len(taken[key.fd]) > limit_bytes:
                    raise OutputLimitError
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    stdout, stderr = taken.values()
    process.stdout.close()
    process.stderr.close()
    return bytes(stdout), bytes(stderr)


def _fed(pipe: IO[bytes], left: memoryview) -> memoryview:
    """Return the unsent rest of the input; empty when the process takes no more, which is allowed."""
    try:
        return left[os.write(pipe.fileno(), left[:_PIECE]) :] if left else left
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group, and close its pipes even where a stray child has them open."""
    _kill_group(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError, ValueError):
                pipe.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)

"""A session with this machine: no SSH, the same behaviour."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from provision.models.settings import Connection
from provision.models.staged import StagedFile
from provision.remote.arrivals import bring_locally
from provision.remote.channel import Channel, LocalChannel, wrapped
from provision.remote.session import Progress, SendReport
from provision.remote.shell import Raw, ShellSession


class LocalSession(ShellSession):
    """Runs commands in process groups of their own, so that a time limit ends all of one."""

    def __init__(self, host: str, connection: Connection) -> None:
        super().__init__(host, connection)
        self._running: subprocess.Popen[bytes] | None = None

    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float) -> Raw:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        self._running = process
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError from None
            raise
        finally:
            self._running = None
        return Raw(process.returncode, stdout, stderr)

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """See Session.send. Files are hard links where the file system allows it."""
        started = time.monotonic()
        report = bring_locally(self.host, files, Path(folder), progress)
        return SendReport(*report, seconds=time.monotonic() - started)

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """See Session.open_channel."""
        return LocalChannel(*wrapped(self.connection, command, root=root))

    def close(self) -> None:
        """See Session.close."""
        process = self._running
        if process is not None:
            _kill_group(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group, and let go of its pipes even where a stray child holds them."""
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

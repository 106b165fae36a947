"""Session over SSH: one Fabric connection, opened on first use and used for every command and upload."""

import contextlib
import shlex
from collections.abc import Iterable, Sequence

import paramiko

from provision.core.errors import StageError, TransportError
from provision.core.models.inventory import Connection
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.client import OpenConnection, connect
from provision.fleet.ssh.openssh import broken_error, where
from provision.fleet.ssh.process import LONGEST_S, PIECE, Channel, Process, Raw, converse
from provision.fleet.ssh.session import Progress, SendReport, Session
from provision.fleet.ssh.upload import send_by_stream

_CHANNEL_S = 20.0
_ALIVE_S = 5.0
_STALLED_S = 120.0
"""Seconds that a host may take no data of an upload."""
_BROKEN = (OSError, EOFError, paramiko.SSHException)


class RemoteProcess(Process):
    """A command of an open connection."""

    def __init__(self, transport: paramiko.Transport, argv: Sequence[str]) -> None:
        self._transport = transport
        self._channel = transport.open_session(timeout=_CHANNEL_S)
        self._channel.exec_command(shlex.join(argv))

    def read(self, timeout_s: float) -> bytes:
        self._channel.settimeout(timeout_s)
        return self._channel.recv(PIECE)

    def read_error(self, timeout_s: float) -> bytes:
        self._channel.settimeout(timeout_s)
        return self._channel.recv_stderr(PIECE)

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """Without a time of its own it ends with the reading, which shares the time limit. Raises TimeoutError, OSError."""
        if timeout_s is not None:
            self._channel.settimeout(timeout_s)
        self._channel.sendall(data)

    def end_input(self) -> None:
        self._channel.shutdown_write()

    def wait(self, timeout_s: float) -> int:
        if not self._channel.status_event.wait(timeout_s):
            raise TimeoutError
        rc = self._channel.recv_exit_status()
        if rc == -1 and not self._transport.is_active():
            raise self._transport.get_exception() or EOFError
        return rc

    def kill(self) -> None:
        """The time limit on the host ends what survives its channel."""
        self._channel.close()

    def close(self) -> None:
        self._channel.close()

    def host_answers(self) -> bool:
        """Return whether the host still answers, over the same connection."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._transport.open_session(timeout=_ALIVE_S).close()
            return True
        return False


class SshSession(Session):
    """Session over SSH; reconnects after a broken connection."""

    def __init__(self, host: str, connection: Connection) -> None:
        super().__init__(host, connection)
        self._opened: OpenConnection | None = None

    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        process = self._start(argv)
        try:
            return converse(process, stdin, timeout_s, limit_bytes)
        except TimeoutError as error:
            if process.host_answers():
                raise
            raise self._broken(error) from None
        except _BROKEN as error:
            raise self._broken(error) from None

    def _open_channel(self, argv: Sequence[str], first: bytes) -> Channel:
        process = self._start(argv)
        try:
            return Channel(process, first)
        except _BROKEN as error:
            raise self._broken(error) from None

    def _start(self, argv: Sequence[str]) -> RemoteProcess:
        if self._opened is not None and not self._opened.transport.is_active():
            self.close()
        self._opened = self._opened or connect(self.host, self.connection)
        try:
            return RemoteProcess(self._opened.transport, argv)
        except _BROKEN as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> TransportError:
        # sshd's MaxSessions may allow no second command: the first one goes on.
        if not isinstance(error, paramiko.ChannelException):
            self.close()
        return broken_error(self.host, self.connection, error)

    def _send(self, files: Sequence[StagedFile], folder: str, progress: Progress) -> SendReport:
        return send_by_stream(self, self.stream, files, folder, progress)

    def stream(self, command: str, pieces: Iterable[bytes]) -> None:
        """Stream bulk data into a POSIX sh command on the host.

        Raises:
            TransportError: The connection broke, or the host took no data for too long.
            StageError: The command failed.
        """
        argv, _, _ = self._wrapped(command, LONGEST_S, root=False)
        with contextlib.closing(self._start(argv)) as process:
            for piece in pieces:
                try:
                    process.write(piece, _STALLED_S)
                except TimeoutError as error:
                    raise self._broken(error) from None
                except OSError:
                    break  # the command has ended: its status says why
            try:
                with contextlib.suppress(OSError):
                    process.end_input()
                rc = process.wait(_STALLED_S)
                message = process.read_error(_STALLED_S).decode(errors="replace") if rc else ""
            except _BROKEN as error:
                raise self._broken(error) from None
        if rc:
            lines = " / ".join(line.strip() for line in message.splitlines() if line.strip())
            raise StageError(
                f"host {self.host} ({where(self.connection)}) did not take the files: {lines or f'exit status {rc}'}",
                hint="check the host's disk and its limits",
            )

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.parts.close()

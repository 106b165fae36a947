"""Session over SSH: one Fabric connection, opened on first use and used for every command."""

from __future__ import annotations

import contextlib
import select
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import paramiko

from provision.core.models.inventory import Connection
from provision.fleet.ssh.channel import Channel, SshChannel, wrapped
from provision.fleet.ssh.client import OpenConnection, alive, connect
from provision.fleet.ssh.errors import broken_error
from provision.fleet.ssh.session import Progress, SendReport
from provision.fleet.ssh.shell import OutputLimitError, Raw, ShellSession
from provision.fleet.ssh.ssh_stream import SshStream
from provision.fleet.ssh.upload import Upload

if TYPE_CHECKING:
    from provision.core.models.staged import StagedFile

_PIECE = 32_768
_AT_ONCE = 32_768
"""Input up to this size fits every server's window and is sent before reading output."""
_CHANNEL_S = 20.0


class SshSession(ShellSession):
    """Session over SSH; reconnects after a broken connection."""

    def __init__(self, host: str, connection: Connection) -> None:
        super().__init__(host, connection)
        self._opened: OpenConnection | None = None
        self._lock = threading.Lock()
        self._users = 0
        self._channels: list[SshChannel] = []
        self._ssh_stream = SshStream(host, connection)

    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        deadline = time.monotonic() + timeout_s
        with self._used():
            opened = self._connected()
            return self._run_on(opened, argv, stdin, deadline, limit_bytes)

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """Keep the connection open while a command or a new channel uses it."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def _run_on(
        self, opened: OpenConnection, argv: Sequence[str], stdin: bytes, deadline: float, limit_bytes: int
    ) -> Raw:
        timeout_s = deadline - time.monotonic()
        try:
            channel = opened.transport.open_session(timeout=max(0.0, min(timeout_s, _CHANNEL_S)))
            with contextlib.closing(channel):
                channel.exec_command(shlex.join(argv))
                return _converse(channel, stdin, deadline, limit_bytes)
        except TimeoutError:
            if alive(opened):
                raise
            self.close()
            raise broken_error(self.host, self.connection, TimeoutError()) from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.close()
            raise broken_error(self.host, self.connection, error) from None

    def _connected(self) -> OpenConnection:
        if self._opened is not None and not self._opened.transport.is_active():
            self.close()
        if self._opened is None:
            self._opened = connect(self.host, self.connection)
        return self._opened

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """See Session.send."""
        return Upload(self, self._ssh_stream, files, folder, progress).send()

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """See Session.open_channel."""
        argv, first = wrapped(self.connection, command, root=root)
        try:
            with self._used():
                channel = SshChannel(self._connected().transport.open_session(timeout=_CHANNEL_S), argv, first)
                self._channels = [each for each in self._channels if not each.is_closed] + [channel]
                return channel
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.close()
            raise broken_error(self.host, self.connection, error) from None

    def rest(self) -> None:
        """See Session.rest."""
        with self._lock:
            if self._users or not all(channel.is_closed for channel in self._channels):
                return
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def close(self) -> None:
        """See Session.close."""
        self._ssh_stream.close()
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()


def _converse(channel: paramiko.Channel, stdin: bytes, deadline: float, limit_bytes: int) -> Raw:
    """Send input to a command and read its output.

    Raises TimeoutError, OutputLimitError, and EOFError when the connection broke.
    """
    _feed(channel, stdin)
    out, err = bytearray(), bytearray()
    ready = select.poll()
    ready.register(channel.fileno(), select.POLLIN)
    while True:
        ended = channel.eof_received or channel.closed
        while channel.recv_ready():
            out += channel.recv(_PIECE)
            _check(out, limit_bytes)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_PIECE)
            _check(err, limit_bytes)
        if ended:
            break
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        ready.poll(left * 1000)
    channel.status_event.wait(max(0.0, deadline - time.monotonic()))
    if not channel.exit_status_ready():
        raise TimeoutError
    rc = channel.recv_exit_status()
    transport = channel.get_transport()
    if rc == -1 and not transport.is_active():
        raise transport.get_exception() or EOFError
    return Raw(rc, bytes(out), bytes(err))


def _check(taken: bytearray, limit_bytes: int) -> None:
    if len(taken) > limit_bytes:
        raise OutputLimitError


def _feed(channel: paramiko.Channel, stdin: bytes) -> None:
    """Send all input and its end; long input in a thread, so that neither side blocks."""

    def feed() -> None:
        # a command may end without reading all input
        with contextlib.suppress(OSError, socket.timeout, EOFError, paramiko.SSHException):
            channel.sendall(stdin)
            channel.shutdown_write()

    if len(stdin) <= _AT_ONCE:
        feed()
    else:
        threading.Thread(target=feed, daemon=True).start()

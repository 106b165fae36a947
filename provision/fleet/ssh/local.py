"""Session with this machine, without SSH."""

from collections.abc import Sequence

from provision.core.models.inventory import Connection, Host
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.process import Channel, LocalProcess, Raw, converse
from provision.fleet.ssh.session import Progress, SendReport, Session
from provision.fleet.ssh.upload import send_by_links


class LocalSession(Session):
    """Runs commands as processes of this machine. Files of the cache are sent as hard links where the file system allows it."""

    def __init__(self, host: str, connection: Connection) -> None:
        super().__init__(host, connection)
        self._running: LocalProcess | None = None

    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        self._running = LocalProcess(argv)
        try:
            return converse(self._running, stdin, timeout_s, limit_bytes)
        finally:
            self._running = None

    def _open_channel(self, argv: Sequence[str], first: bytes) -> Channel:
        return Channel(LocalProcess(argv), first)

    def _send(self, files: Sequence[StagedFile], folder: str, progress: Progress) -> SendReport:
        return send_by_links(self, files, folder, progress)

    def close(self) -> None:
        process = self._running
        if process is not None:
            process.kill()


def open_session(host: Host) -> Session:
    """Return a session for a host; it connects on first use."""
    if host.connection.kind == "local":
        return LocalSession(host.name, host.connection)
    from provision.fleet.ssh.ssh import SshSession  # Fabric takes 0.1 s, and a command on this machine needs none

    return SshSession(host.name, host.connection)

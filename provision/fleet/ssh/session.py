"""Interface of sessions, local or over SSH."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from provision.core.models.staged import StagedFile
from provision.fleet.ssh.channel import Channel

READ_BYTES = 64 << 20
"""What a file that is read may hold, unless the caller expects more: the list of 755 installed OS packages takes 0.7 MiB."""

Progress = Callable[[int], None]
"""Called with the number of bytes sent since the last call; negative when bytes must be sent again."""


@dataclass(frozen=True)
class Completed:
    """Result of a command. Undecodable bytes are replaced."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class SendReport:
    """Result of `send`; sizes in bytes."""

    sent: tuple[str, ...]
    present: tuple[str, ...]
    bytes_sent: int
    bytes_resumed: int
    """Bytes of interrupted files that were not sent again."""
    seconds: float


class Session(Protocol):
    """A connection to one host, opened on first use, for one thread at a time."""

    host: str

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        """Run a POSIX sh command; an empty one runs the script on stdin, which has to end itself in time.

        Raises:
            TransportError: The host cannot be reached, or the connection broke.
            RemoteCommandError: The command exceeded its time limit, or sudo refused.
        """

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """Upload files into a folder, verified by SHA-256 there; only missing files are sent.

        Raises:
            StageError: The disk is too small, or a file arrived damaged twice.
            TransportError: The connection broke.
        """

    def write(self, path: str, content: bytes, *, mode: int = 0o644, root: bool = False) -> None:
        """Write a file atomically.

        Raises:
            RemoteCommandError: The host refused.
            TransportError: The connection broke.
        """

    def read(self, path: str, *, root: bool = False, timeout_s: float = 60.0, limit_bytes: int = READ_BYTES) -> bytes:
        """Return the content of a file.

        Args:
            timeout_s: Seconds until it is given up.
            limit_bytes: The longest content; it is held in memory.

        Raises:
            FileNotFoundError: There is no such file.
            RemoteCommandError: The file cannot be read, or is longer than the limit.
            TransportError: The connection broke.
        """

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """Start a POSIX sh command that runs until its input ends.

        Raises:
            TransportError: The host cannot be reached.
        """

    def rest(self) -> None:
        """Close the connection where no command and no channel uses it; the next command opens it again."""

    def close(self) -> None:
        """Close the session, opened or not; a command on another thread is ended."""

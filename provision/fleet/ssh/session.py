"""What a session is, whichever way it reaches its host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from provision.core.models.staged import StagedFile
from provision.fleet.ssh.channel import Channel

Progress = Callable[[int], None]
"""Called with the number of bytes that went over since the last call; negative when bytes must be sent again."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended. Text that is not UTF-8 has its bytes replaced."""

    rc: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SendReport:
    """What `send` had to do: sizes in bytes."""

    sent: tuple[str, ...]
    present: tuple[str, ...]
    bytes_sent: int
    bytes_resumed: int
    """Bytes of files cut off earlier that did not have to travel again."""
    seconds: float


class Session(Protocol):
    """A way to one host. Opened by the first call that needs it, used by one thread at a time."""

    host: str

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        """Run a POSIX sh command, as root when asked.

        Raises TransportError when the host cannot be reached or the connection breaks, RemoteCommandError when the
        command outlives its time limit or sudo refuses.
        """

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """Bring files into a folder, each under its name, verified by SHA-256 there; only what is missing travels.

        Raises StageError when the disk is too small or a file arrives wrong twice, TransportError.
        """

    def write(self, path: str, content: bytes, *, mode: int = 0o644, root: bool = False) -> None:
        """Write a file so that it is there whole or not at all.

        Raises RemoteCommandError when the host refuses, TransportError.
        """

    def read(self, path: str, *, root: bool = False, timeout_s: float = 60.0) -> bytes:
        """The content of a file.

        Raises FileNotFoundError, RemoteCommandError when it cannot be read, TransportError.
        """

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """Start a POSIX sh command that goes on beside others until its input ends.

        Raises TransportError.
        """

    def close(self) -> None:
        """End the session; harmless when it was never opened. Ends a command that still runs on another thread."""

"""Session with a host, local or over SSH: commands, whole files, uploads, channels. Written and sent files are recorded."""

import contextlib
import hashlib
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from provision.core.errors import RemoteCommandError
from provision.core.models.inventory import Connection
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.process import LONGEST_S, Channel, OutputLimitError, Raw
from provision.fleet.ssh.sudo import become_password, checked_stderr, wrap

_ABSENT = 44
"""Exit status of our own reading command for a file that is not there."""
MIB = 1 << 20
RUN_BYTES = 8 * MIB
"""What a command may print: the largest answer, a survey of many files, takes 3 MiB. All workers together may hold this much each."""
READ_BYTES = 64 * MIB
"""What a file that is read may hold, unless the caller expects more: the list of 755 installed OS packages takes 0.7 MiB."""

Progress = Callable[[int], None]
"""Called with the number of bytes sent since the last call; negative when bytes must be sent again."""


@dataclass(frozen=True)
class Completed:
    """Result of a command. Undecodable bytes are replaced."""

    rc: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class SendReport:
    """Result of `send`; sizes in bytes."""

    sent: tuple[str, ...]
    bytes_sent: int
    seconds: float


class Record(Protocol):
    """Receiver of one change, after it was made or failed."""

    def __call__(self, how: str, *, host: str, output: str = "", **data: Any) -> None: ...


class Session(ABC):
    """A connection to one host, opened on first use, for one thread at a time."""

    def __init__(self, host: str, connection: Connection) -> None:
        self.host = host
        self.connection = connection
        self.record: Record = lambda *_, **__: None
        """Receives every file that is written to the host; commands and reads are not recorded."""

    def run(
        self,
        command: str,
        *,
        stdin: str | None = None,
        timeout_s: float = 60.0,
        root: bool = False,
    ) -> Completed:
        """Run a POSIX sh command; an empty one runs the script on stdin, which has to end itself in time.

        Args:
            command: The command.
            stdin: Its input.
            timeout_s: Seconds until it is ended.
            root: Whether root runs it.

        Raises:
            TransportError: The host cannot be reached, or the connection broke.
            RemoteCommandError: The command exceeded its time limit, or sudo refused.
        """
        raw = self._run(command, stdin=(stdin or "").encode(), timeout_s=timeout_s, root=root)
        return Completed(raw.rc, raw.stdout.decode(errors="replace"), raw.stderr.decode(errors="replace"))

    def send(self, files: Sequence[StagedFile], folder: str, *, progress: Progress | None = None) -> SendReport:
        """Upload files into a folder, verified by SHA-256 there; only missing files are sent.

        Raises:
            StageError: The disk is too small, or a file arrived damaged twice.
            TransportError: The connection broke.
        """
        with self._failure_recorded("send", folder=folder):
            report = self._send(files, folder, progress or (lambda _: None))
        if report.sent:
            sent = {file.name: file.sha256 for file in files if file.name in report.sent}
            took: dict[str, Any] = {"bytes": report.bytes_sent, "seconds": round(report.seconds, 3)}
            self.record("send", host=self.host, folder=folder, changed=True, sha256=sent, **took)
        return report

    def write(self, path: str, content: bytes, *, mode: int = 0o644, root: bool = False) -> None:
        """Write a file atomically.

        Raises:
            RemoteCommandError: The host refused.
            TransportError: The connection broke.
        """
        change: dict[str, Any] = {"path": path, "mode": f"{mode:04o}", "as_root": root, "bytes": len(content)}
        change["sha256"] = hashlib.sha256(content).hexdigest()
        target = PurePosixPath(path)
        temporary = shlex.quote(str(target.with_name(f".{target.name}.firstlight")))
        command = (
            f"umask 077; t={temporary}.$$; trap 'rm -f -- \"$t\"' EXIT; "
            f'cat > "$t" && chmod {mode:o} -- "$t" && mv -f -- "$t" {shlex.quote(path)}'
        )
        with self._failure_recorded("write", **change):
            done = self._run(command, stdin=content, root=root)
            if done.rc != 0:
                raise self._refused(f"{path} cannot be written", done)
        self.record("write", host=self.host, **change, changed=True)

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
        name = shlex.quote(path)
        command = f"[ -e {name} ] || exit {_ABSENT}; exec cat -- {name}"
        done = self._run(command, root=root, timeout_s=timeout_s, limit_bytes=limit_bytes)
        if done.rc == _ABSENT:
            raise FileNotFoundError(path)
        if done.rc != 0:
            raise self._refused(f"{path} cannot be read", done)
        return done.stdout

    def open_channel(self, command: str, *, root: bool = False) -> Channel:
        """Start a POSIX sh command that runs until its input ends.

        Raises:
            TransportError: The host cannot be reached.
        """
        argv, first, _ = self._wrapped(command, LONGEST_S, root=root)
        return self._open_channel(argv, first)

    @abstractmethod
    def close(self) -> None:
        """Close the session, opened or not; a command on another thread is ended."""

    @abstractmethod
    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        """Run a program on the host. Raises TimeoutError, OutputLimitError, TransportError."""

    @abstractmethod
    def _open_channel(self, argv: Sequence[str], first: bytes) -> Channel:
        """Start a program on the host, with the first bytes of its input. Raises TransportError."""

    @abstractmethod
    def _send(self, files: Sequence[StagedFile], folder: str, progress: Progress) -> SendReport:
        """Upload files as `send` does, unrecorded."""

    def _run(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        root: bool = False,
        limit_bytes: int = RUN_BYTES,
    ) -> Raw:
        """Run a command as `run` does, with content that need not be text."""
        argv, first, had_password = self._wrapped(command, timeout_s, root=root)
        try:
            raw = self._execute(argv, first + stdin, timeout_s, limit_bytes)
        except TimeoutError:
            raise RemoteCommandError(
                f"a command on host {self.host} did not end within {timeout_s:g} s: {_short(command)}",
                hint="see on the host what it waits for; it is ended there",
            ) from None
        except OutputLimitError:
            raise RemoteCommandError(
                f"a command on host {self.host} printed more than {limit_bytes // MIB} MiB and was broken off: {_short(command)}",
                hint="no answer is that long: look at the host's shell, its login scripts, and who else is on it",
            ) from None
        if not root:
            return raw
        return raw._replace(stderr=checked_stderr(self.host, raw.stderr, had_password=had_password))

    def _wrapped(self, command: str, timeout_s: float, *, root: bool) -> tuple[tuple[str, ...], bytes, bool]:
        """Return the arguments that run a command, the first bytes of its input, and whether these are a password."""
        password = become_password(self.connection) if root else None
        argv, first = wrap(command, timeout_s=timeout_s, root=root, password=password)
        return argv, first.encode(), password is not None

    @contextlib.contextmanager
    def _failure_recorded(self, how: str, **change: Any) -> Iterator[None]:
        """Record a change that failed: what of it was done before the error is unknown."""
        try:
            yield
        except BaseException as error:
            self.record(how, host=self.host, **change, changed=None, output=str(error))
            raise

    def _refused(self, what: str, done: Raw) -> RemoteCommandError:
        message = done.stderr.decode(errors="replace").strip() or f"exit status {done.rc}"
        return RemoteCommandError(
            f"{what} on host {self.host}: {message}", hint="check the folder, its owner and its free space"
        )


def _short(command: str, limit: int = 120) -> str:
    """Return a command in one short line."""
    line = " ".join(command.split()) or "a script"
    return line if len(line) <= limit else line[: limit - 3] + "..."

"""Base of local and SSH sessions: everything that is one shell command."""

from __future__ import annotations

import shlex
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import PurePosixPath

from provision.core.errors import RemoteCommandError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.process import OutputLimitError, Raw
from provision.fleet.ssh.session import READ_BYTES, Completed, Session
from provision.fleet.ssh.sudo import become_password, checked_stderr, wrap

_ABSENT = 44
"""Exit status of our own reading command for a file that is not there."""
MIB = 1 << 20
RUN_BYTES = 8 * MIB
"""What a command may print: the largest answer, a survey of many files, takes 3 MiB. All workers together may hold this much each."""


class ShellSession(Session):
    """A session that can run commands; the rest follows."""

    def __init__(self, host: str, connection: Connection) -> None:
        self.host = host
        self.connection = connection

    @abstractmethod
    def _execute(self, argv: Sequence[str], stdin: bytes, timeout_s: float, limit_bytes: int) -> Raw:
        """Run a program on the host. Raises TimeoutError, OutputLimitError, TransportError."""

    def run_bytes(
        self,
        command: str,
        *,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        root: bool = False,
        limit_bytes: int = RUN_BYTES,
    ) -> Raw:
        """As `run`, for content that is not text."""
        password = become_password(self.connection) if root else None
        argv, first = wrap(command, timeout_s=timeout_s, root=root, password=password)
        try:
            raw = self._execute(argv, first.encode() + stdin, timeout_s, limit_bytes)
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
        return raw._replace(stderr=checked_stderr(self.host, raw.stderr, had_password=password is not None))

    def run(self, command: str, *, stdin: str | None = None, timeout_s: float = 60.0, root: bool = False) -> Completed:
        started = time.monotonic()
        raw = self.run_bytes(command, stdin=(stdin or "").encode(), timeout_s=timeout_s, root=root)
        return Completed(
            raw.rc,
            raw.stdout.decode(errors="replace"),
            raw.stderr.decode(errors="replace"),
            time.monotonic() - started,
        )

    def write(self, path: str, content: bytes, *, mode: int = 0o644, root: bool = False) -> None:
        target = PurePosixPath(path)
        temporary = shlex.quote(str(target.with_name(f".{target.name}.firstlight")))
        command = (
            f"umask 077; t={temporary}.$$; trap 'rm -f -- \"$t\"' EXIT; "
            f'cat > "$t" && chmod {mode:o} -- "$t" && mv -f -- "$t" {shlex.quote(path)}'
        )
        done = self.run_bytes(command, stdin=content, root=root)
        if done.rc != 0:
            raise self._refused(f"{path} cannot be written", done)

    def read(self, path: str, *, root: bool = False, timeout_s: float = 60.0, limit_bytes: int = READ_BYTES) -> bytes:
        name = shlex.quote(path)
        done = self.run_bytes(
            f"[ -e {name} ] || exit {_ABSENT}; exec cat -- {name}",
            root=root,
            timeout_s=timeout_s,
            limit_bytes=limit_bytes,
        )
        if done.rc == _ABSENT:
            raise FileNotFoundError(path)
        if done.rc != 0:
            raise self._refused(f"{path} cannot be read", done)
        return done.stdout

    def _refused(self, what: str, done: Raw) -> RemoteCommandError:
        message = done.stderr.decode(errors="replace").strip() or f"exit status {done.rc}"
        return RemoteCommandError(
            f"{what} on host {self.host}: {message}", hint="check the folder, its owner and its free space"
        )


def _short(command: str, limit: int = 120) -> str:
    """Return a command in one short line."""
    line = " ".join(command.split()) or "a script"
    return line if len(line) <= limit else line[: limit - 3] + "..."

"""Bulk data streamed into a command on the host by OpenSSH, several times faster than Paramiko."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator

from provision.core.errors import HostKeyError, StageError, TransportError
from provision.core.models.inventory import Connection
from provision.core.scratch import scratch_folder
from provision.fleet.ssh.errors import AuthenticationError, where
from provision.fleet.ssh.openssh import ssh_command

_SSH_FAILED = 255


class SshStream:
    """Streams to one host, one at a time."""

    def __init__(self, host: str, connection: Connection) -> None:
        self._host = host
        self._connection = connection
        self._running: subprocess.Popen[bytes] | None = None

    def stream(self, command: str, pieces: Iterable[bytes]) -> None:
        """Stream data into a POSIX sh command on the host.

        Raises:
            TransportError: The connection broke.
            StageError: The command failed.
        """
        with tempfile.TemporaryFile() as errors, _environment(self._connection) as environment:
            process = subprocess.Popen(
                [*ssh_command(self._connection), command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
            self._running = process
            assert process.stdin is not None
            try:
                # the exit status and stderr tell why the host stopped reading
                with contextlib.suppress(BrokenPipeError):
                    for piece in pieces:
                        process.stdin.write(piece)
                    process.stdin.close()
                rc = process.wait()
            finally:
                self._running = None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                if process.poll() is None:
                    process.kill()
                    process.wait()
            errors.seek(0)
            message = " / ".join(
                line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()
            )
        if rc != 0:
            raise self._failed(rc, message)

    def _failed(self, rc: int, message: str) -> Exception:
        at = f"host {self._host} ({where(self._connection)})"
        if rc == _SSH_FAILED or rc < 0:
            kind = TransportError
            if "Host key verification failed" in message:
                kind = HostKeyError
            elif "Permission denied" in message:
                kind = AuthenticationError
            return kind(
                f"the transfer to {at} broke off: {message or 'the connection was closed'}",
                hint="run the same command again: what has arrived is kept and the rest follows",
            )
        return StageError(
            f"{at} did not take the files: {message or f'exit status {rc}'}",
            hint="check the host's disk and its limits",
        )

    def close(self) -> None:
        """Stop a stream of another thread."""
        process = self._running
        if process is not None:
            process.kill()


@contextlib.contextmanager
def _environment(connection: Connection) -> Iterator[dict[str, str]]:
    """Provide the environment of the process; a login password is passed through OpenSSH's askpass."""
    if connection.password is None:
        yield dict(os.environ)
        return
    with scratch_folder() as folder:
        script = folder / "askpass"
        script.write_text("#!/bin/sh\nprintf '%s\\n' \"$FIRSTLIGHT_ASKPASS\"\n", encoding="utf-8")
        script.chmod(0o700)
        yield os.environ | {
            "SSH_ASKPASS": str(script),
            "SSH_ASKPASS_REQUIRE": "force",
            "FIRSTLIGHT_ASKPASS": connection.password.get_secret_value(),
        }

"""Bytes by the gigabyte: streamed into a command on the host by OpenSSH itself, which does that several times faster than Paramiko."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from provision.core.errors import HostKeyError, StageError, TransportError
from provision.core.models.settings import Connection
from provision.fleet.ssh.errors import AuthenticationError, where
from provision.fleet.ssh.openssh import ssh_command

_SSH_FAILED = 255
_FAST_CIPHER = "aes128-gcm@openssh.com"
"""Where processors have instructions for AES it takes about half the time of OpenSSH's own first choice, ChaCha20."""


class SshStream:
    """Streams to one host, one at a time."""

    def __init__(self, host: str, connection: Connection) -> None:
        self._host = host
        self._connection = connection
        self._running: subprocess.Popen[bytes] | None = None

    def stream(self, command: str, pieces: Iterable[bytes]) -> None:
        """Feed a POSIX sh command on the host. Raises TransportError when the way broke, StageError when the command failed."""
        with tempfile.TemporaryFile() as errors, _environment(self._connection) as environment:
            process = subprocess.Popen(
                [*ssh_command(self._connection, options=_cipher(self._connection)), command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
            self._running = process
            assert process.stdin is not None
            try:
                # Why the far side stopped reading is in its exit status and in what it says.
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
            said = " / ".join(
                line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()
            )
        if rc != 0:
            raise self._failed(rc, said)

    def _failed(self, rc: int, said: str) -> Exception:
        at = f"host {self._host} ({where(self._connection)})"
        if rc == _SSH_FAILED or rc < 0:
            kind = TransportError
            if "Host key verification failed" in said:
                kind = HostKeyError
            elif "Permission denied" in said:
                kind = AuthenticationError
            return kind(
                f"the transfer to {at} broke off: {said or 'the connection was closed'}",
                hint="run the same command again: what has arrived is kept and the rest follows",
            )
        return StageError(
            f"{at} did not take the files: {said or f'exit status {rc}'}", hint="check the host's disk and its limits"
        )

    def close(self) -> None:
        """Break off a stream that runs on another thread."""
        process = self._running
        if process is not None:
            process.kill()


def _cipher(connection: Connection) -> tuple[str, ...]:
    """The fast cipher asked for first, unless the user's ssh configuration says which it wants."""
    return () if "ciphers" in connection.algorithms else ("-o", f"Ciphers=^{_FAST_CIPHER}")


@contextlib.contextmanager
def _environment(connection: Connection) -> Iterator[dict[str, str]]:
    """The process's environment; a login password goes over OpenSSH's own askpass interface."""
    if connection.password is None:
        yield dict(os.environ)
        return
    with tempfile.TemporaryDirectory(prefix="firstlight-askpass-") as folder:
        script = Path(folder, "askpass")
        script.write_text("#!/bin/sh\nprintf '%s\\n' \"$FIRSTLIGHT_ASKPASS\"\n", encoding="utf-8")
        script.chmod(0o700)
        yield os.environ | {
            "SSH_ASKPASS": str(script),
            "SSH_ASKPASS_REQUIRE": "force",
            "FIRSTLIGHT_ASKPASS": connection.password.get_secret_value(),
        }

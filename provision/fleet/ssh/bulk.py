"""Bulk transfer by OpenSSH, several times faster than Paramiko: its login and its errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from provision.core.errors import FirstlightError, HostKeyError, StageError, TransportError
from provision.core.models.inventory import Connection
from provision.core.scratch import scratch_folder
from provision.fleet.ssh.errors import AuthenticationError, where
from provision.fleet.ssh.process import Raw

_SSH_FAILED = 255


@contextlib.contextmanager
def login_environment(connection: Connection) -> Iterator[dict[str, str]]:
    """Provide the environment of an `ssh` process; a login password is passed through OpenSSH's askpass."""
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


def transfer_error(host: str, connection: Connection, ended: Raw) -> FirstlightError:
    """Return the error of an `ssh` process that failed."""
    lines = ended.stderr.decode(errors="replace").splitlines()
    message = " / ".join(line.strip() for line in lines if line.strip())
    at = f"host {host} ({where(connection)})"
    if ended.rc == _SSH_FAILED or ended.rc < 0:
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
        f"{at} did not take the files: {message or f'exit status {ended.rc}'}",
        hint="check the host's disk and its limits",
    )

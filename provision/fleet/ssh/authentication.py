"""Login in OpenSSH's order: agent keys, key files with certificates, password.

Fabric's OpenSSHAuthStrategy is experimental and lacks IdentitiesOnly, CertificateFile and IdentityAgent, and prompts on the terminal.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
from paramiko.agent import AgentSSH
from paramiko.auth_strategy import AuthSource, AuthStrategy, InMemoryPrivateKey, NoneAuth, OnDiskPrivateKey, Password
from paramiko.pkey import PublicBlob

from provision.core.models.inventory import Connection


class _Agent(AgentSSH):
    """The agent behind one socket, whichever environment variable names it."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__()
        conversation = socket.socket(socket.AF_UNIX)
        conversation.settimeout(timeout_s)
        conversation.connect(path)
        self._connect(conversation)  # type: ignore[attr-defined]  # not in its type stubs


class Login(AuthStrategy):
    """The ways to log in that a connection allows, in OpenSSH's order. `notes` collects what could not be tried, and why."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(ssh_config=None)  # type: ignore[arg-type]  # resolved long before
        self.connection = connection
        self.notes: list[str] = []
        self.tried: list[str] = []

    def get_sources(self) -> Iterator[AuthSource]:
        """One after the other, until one is taken."""
        user = str(self.connection.user)
        files = self._key_files()
        wanted = {key.asbytes() for _, key in files} | self._public_halves()
        in_agent: set[bytes] = set()
        agent_keys = self._agent_keys()
        for key in sorted(agent_keys, key=lambda key: key.asbytes() not in wanted):
            if self.connection.identities_only and key.asbytes() not in wanted:
                continue
            in_agent.add(key.asbytes())
            self.tried.append(f"{key.get_name()} of the agent")
            yield InMemoryPrivateKey(user, key)
        for path, key in files:
            if key.asbytes() not in in_agent and key.can_sign():
                self.tried.append(path)
                yield OnDiskPrivateKey(user, "ssh-config", Path(path), key)
        if self.connection.password is not None:
            password = self.connection.password.get_secret_value()
            self.tried.append("a password")
            yield Password(user, lambda: password)
        # Refused as a rule, with the list of what the host would have taken.
        yield NoneAuth(user)

    def _key_files(self) -> list[tuple[str, Any]]:
        found = []
        for path in filter(os.path.isfile, self.connection.identity_files):
            try:
                key = paramiko.PKey.from_path(path)
            except (TypeError, ValueError, paramiko.SSHException, OSError) as error:
                self.notes.append(f"{path} {_why_unusable(error)}")
                continue
            for certificate in filter(os.path.isfile, self.connection.certificate_files):
                if Path(certificate).name.startswith(Path(path).name):
                    try:
                        key.load_certificate(certificate)
                    except (ValueError, OSError) as error:
                        self.notes.append(f"{certificate} {_why_unusable(error)}")
            found.append((path, key))
        return found

    def _public_halves(self) -> set[bytes]:
        """Return public keys next to the named files: the agent signs for a file that is encrypted or elsewhere."""
        halves = set()
        for path in self.connection.identity_files:
            public = Path(path if path.endswith(".pub") else f"{path}.pub")
            if public.is_file():
                try:
                    halves.add(PublicBlob.from_file(str(public)).key_blob)
                except (ValueError, OSError) as error:
                    self.notes.append(f"{public} {_why_unusable(error)}")
        return halves

    def _agent_keys(self) -> list[Any]:
        path = self.connection.identity_agent or os.environ.get("SSH_AUTH_SOCK")
        if not path or path == "none":
            return []
        try:
            return list(_Agent(path, self.connection.connect_timeout_s).get_keys())
        except (OSError, paramiko.SSHException) as error:
            if self.connection.identity_agent:
                self.notes.append(f"the agent at {path} does not answer: {error}")
            return []


def _why_unusable(error: Exception) -> str:
    """Return why a file gives no key, without its content: libraries quote what they could not parse."""
    # Which one it is depends on the format of the file.
    if isinstance(error, paramiko.PasswordRequiredException) or (
        isinstance(error, TypeError) and "password" in str(error).lower()
    ):
        return "has a passphrase: add it to your agent with ssh-add"
    reason = error.strerror if isinstance(error, OSError) else "it holds no key that OpenSSH would read"
    return f"cannot be read: {reason}"

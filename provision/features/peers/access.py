"""Access of hosts to each other's incoming folders for the time of a run: a key of its own, a pinned host key, one forced command.

What goes wrong is raised as in `program`.
"""

import base64
import ipaddress
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from provision.core.errors import SourceError
from provision.core.models.inventory import Connection
from provision.core.models.staged import StagedFile
from provision.features.peers import program
from provision.fleet.ssh.channel import Channel
from provision.fleet.ssh.host_keys import keys_of
from provision.fleet.ssh.session import Session

PROGRAM = Path(__file__).parent / "onhost" / "peer.py"
KEY_LIFE_S = 6 * 3600
"""After that sshd refuses the key, even on a host that lost its power before it could remove it. Longer than a run may send."""
_ALIAS = "peer"
_OPTIONS = {
    "BatchMode": "yes",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "PreferredAuthentications": "publickey",
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "none",
    "UpdateHostKeys": "no",
    "CheckHostIP": "no",
    "HostKeyAlias": _ALIAS,
    "ConnectTimeout": "10",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    # with AES instructions the first takes about half the time of OpenSSH's default
    "Ciphers": "aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr",
}


@dataclass(frozen=True)
class RunKey:
    """The key pair of a run, in memory only here."""

    public: str
    """In the form of authorized_keys, without a comment."""
    private: str = field(repr=False)


def make_key() -> RunKey:
    """Make the key pair of a run."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return RunKey(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(), private.decode())


@dataclass(frozen=True)
class Peer:
    """A host as the others reach it."""

    name: str
    connection: Connection
    user: str
    key: RunKey

    def ssh_arguments(self) -> list[str]:
        """Return the arguments of `ssh` on another host, without those that name files there."""
        options = (word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}"))
        target = ("-p", str(self.connection.port), "-l", self.user, "--", str(self.connection.address))
        return ["-T", "-F", "none", *options, *target]

    def known_hosts(self) -> str:
        """Return the lines of known_hosts that pin this host's keys, as the controller knows them."""
        text = ""
        for key in keys_of(self.connection):
            if key.marker != "@cert-authority":
                words = (key.marker, _ALIAS, key.kind, base64.b64encode(key.blob).decode())
                text += f"{' '.join(filter(None, words))}\n"
        return text


def network_of(connection: Connection) -> str:
    """Return a text that is equal for hosts that are reached by the same way: those may reach each other."""
    if connection.proxy_jump:
        return ",".join(f"{jump.address}:{jump.port}" for jump in connection.proxy_jump)
    return connection.proxy_command or ""


def obstacle(connection: Connection) -> str | None:
    """Return why no other host can reach this one, as far as that is known; None where nothing is in the way."""
    if connection.kind == "local":
        return "it is the controller itself"
    address = str(connection.address)
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = address == "localhost"
    return "its address is a port of the controller" if is_loopback else None


def grant(session: Session, folder: str, key: RunKey) -> Channel:
    """Let the holders of the run's key read verified files of a host, for as long as the channel is open."""
    with ExitStack() as stack:
        channel = program.start(session, folder, PROGRAM, "grant")
        stack.callback(channel.close)
        answer = program.exchange(session, channel, {"key": key.public, "seconds": KEY_LIFE_S})
        if answer != "granted":
            problem = answer or channel.error_text() or "no answer"
            raise SourceError(f"host {session.host} hands nothing on: {problem}")
        stack.pop_all()
    return channel


def fetch(
    session: Session, folder: str, files: Sequence[StagedFile], source: Peer, progress: Callable[[int], None]
) -> int:
    """Let a host get files from another one, as `program.get_files` does; return the bytes that came."""
    request = {"key": source.key.private, "known_hosts": source.known_hosts(), "ssh": source.ssh_arguments()}
    try:
        return program.get_files(
            session, folder, files, program=PROGRAM, word="fetch", request=request, progress=progress
        )
    except SourceError as error:
        raise SourceError(f"host {session.host} got no files from host {source.name}: {error.text}") from None

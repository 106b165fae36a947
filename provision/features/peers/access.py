"""Access of hosts to each other's incoming folders for the time of a run: a key of its own, a pinned host key, one forced command.

A program of this product in a host's incoming folder reports what it moves as lines of JSON. Functions raise
SourceError where the host cannot run it, or it does not come to its end; StageError where the disk is too small or the
folder cannot be used; and TransportError where the connection from here breaks.
"""

import base64
import ipaddress
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.core.errors import RemoteCommandError, SourceError
from provision.core.json_text import parse_object
from provision.core.models.inventory import Connection
from provision.core.models.staged import StagedFile
from provision.fleet.inventory.addresses import is_ip
from provision.fleet.ssh.host_keys import keys_of
from provision.fleet.ssh.process import Channel
from provision.fleet.ssh.session import Session
from provision.fleet.ssh.upload import PEER_FOLDER, list_remote, part_name

ANSWER_S = 30.0
SILENCE_S = 60.0
"""A transfer that moves nothing for so long is broken off. OpenSSH itself notices a dead host after as long."""
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
}


def _start(session: Session, folder: str, word: str) -> Channel:
    """Start the program in a host's incoming folder."""
    own = f"{folder}/{PEER_FOLDER}"
    done = session.run(f"umask 077; mkdir -p -- {shlex.quote(own)}; command -v python3")
    if done.rc != 0:
        raise SourceError(
            f"host {session.host} cannot run {PROGRAM.name}: {done.stderr.strip() or 'python3 is not found'}"
        )
    try:
        session.write(f"{own}/{PROGRAM.name}", PROGRAM.read_bytes(), mode=0o600)
    except RemoteCommandError as error:
        raise SourceError(error.text, hint=error.hint) from None
    return session.open_channel(f"exec python3 -I {shlex.quote(f'{own}/{PROGRAM.name}')} {word}")


def _exchange(session: Session, channel: Channel, request: dict[str, Any], timeout_s: float) -> str:
    """Send the program its request, and return its first line."""
    try:
        channel.writeline(json.dumps(request))
    except OSError as error:
        raise SourceError(f"the program on host {session.host} ended: {error}") from None
    return channel.readline(timeout_s=timeout_s)


def get_files(
    session: Session,
    folder: str,
    files: Sequence[StagedFile],
    *,
    word: str,
    request: dict[str, Any],
    progress: Callable[[int], None],
    lacks: dict[str, str] | None = None,
) -> None:
    """Let a host get files that it lacks, under their names in transfer.

    `Session.send` verifies them and sends what is missing.

    Args:
        word: What it is to do.
        request: What it is told besides the files.
        progress: Gets the bytes of each report.
        lacks: Gets by SHA-256 why files did not come.
    """
    remote = list_remote(session, folder)
    missing = [(file, remote.part(file)) for file in files if not remote.has(file)]
    rows = [
        {**file.model_dump(include={"name", "sha256", "size", "hub_path"}), "offset": offset, "part": part_name(file)}
        for file, offset in missing
        if offset < file.size
    ]
    if not rows:
        return
    channel = _start(session, folder, word)
    try:
        record = _record(_exchange(session, channel, {**request, "files": rows}, SILENCE_S))
        while isinstance(count := record.get("bytes"), int) or "lacks" in record:
            if isinstance(count, int):
                progress(count)
            elif lacks is not None:
                lacks[str(record["lacks"])] = str(record.get("why"))
            record = _record(channel.readline(timeout_s=SILENCE_S))
        if "done" not in record:
            problem = record.get("problem") or channel.error_text() or f"nothing moved for {SILENCE_S:g} s"
            raise SourceError(str(problem))
    finally:
        channel.close()


def _record(line: str) -> dict[str, Any]:
    try:
        return parse_object(line)
    except ValueError:
        return {}


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
    return (connection.proxy_command or "").replace(str(connection.address), "")


def obstacle(connection: Connection) -> str | None:
    """Return why no other host can reach this one, as far as that is known; None where nothing is in the way."""
    if connection.kind == "local":
        return "it is the controller itself"
    address = str(connection.address)
    is_loopback = ipaddress.ip_address(address).is_loopback if is_ip(address) else address == "localhost"
    return "its address is a port of the controller" if is_loopback else None


def grant(session: Session, folder: str, key: RunKey) -> Channel:
    """Let the holders of the run's key read verified files of a host, for as long as the channel is open."""
    with ExitStack() as stack:
        channel = _start(session, folder, "grant")
        stack.callback(channel.close)
        answer = _exchange(session, channel, {"key": key.public, "seconds": KEY_LIFE_S}, ANSWER_S)
        if answer != "granted":
            problem = answer or channel.error_text() or "no answer"
            raise SourceError(f"host {session.host} hands nothing on: {problem}")
        stack.pop_all()
    return channel


def fetch(
    session: Session, folder: str, files: Sequence[StagedFile], source: Peer, progress: Callable[[int], None]
) -> None:
    """Let a host get files from another one, as `get_files` does."""
    request = {"key": source.key.private, "known_hosts": source.known_hosts(), "ssh": source.ssh_arguments()}
    try:
        get_files(session, folder, files, word="fetch", request=request, progress=progress)
    except SourceError as error:
        raise SourceError(f"host {session.host} got no files from host {source.name}: {error.text}") from None

"""Known keys of hosts, as `ssh-keygen` finds them, and the check of the key that a host shows; it cannot be switched off.

Paramiko lacks patterns, negation, certificate authorities, revoked keys and HostKeyAlias, and rewrites the whole file to add a key.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from provision.core.errors import HostKeyError
from provision.core.models.inventory import Connection
from provision.fleet.ssh.openssh import key_command

_FOUND = re.compile(r"# Host .* found: line (\d+)( .*)?")
_NO_CERTIFICATE = ("-o", "HostKeyAlgorithms=-*-cert-v01@openssh.com")
"""OpenSSH stores no key of a host whose certificate it knows."""


class KnownKey(NamedTuple):
    """One matching line of a known_hosts file."""

    file: str
    line: int
    marker: str
    """`@cert-authority`, `@revoked`, or empty."""
    kind: str
    """`ssh-ed25519`, `ssh-rsa` ..."""
    blob: bytes


def name_of(connection: Connection) -> str:
    """Return the known_hosts name of a connection: the alias, else the address, with the port unless it is 22."""
    if connection.host_key_alias:
        return connection.host_key_alias
    address = str(connection.address).lower()
    return address if connection.port == 22 else f"[{address}]:{connection.port}"


def keys_of(connection: Connection) -> list[KnownKey]:
    """Return all lines for the host of a connection in file order; missing files and malformed lines are skipped."""
    name, files = name_of(connection), connection.known_hosts_files
    return [key for file in files if Path(file).is_file() for key in _in_file(file, name)]


def _in_file(file: str, name: str) -> Iterator[KnownKey]:
    # It prints each line below a comment with its number.
    answer = subprocess.run(["ssh-keygen", "-F", name, "-f", file], capture_output=True, check=False)
    lines = iter(answer.stdout.decode(errors="replace").splitlines())
    for found in filter(None, map(_FOUND.fullmatch, lines)):
        fields = next(lines, "").split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        _, kind, key, *_ = [*fields, "", "", ""]
        try:
            blob = base64.b64decode(key, validate=True)
        except binascii.Error:
            continue
        yield KnownKey(file, int(found[1]), marker, kind, blob)


def fingerprint(blob: bytes) -> str:
    """Return a key's fingerprint in OpenSSH's form."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def add_known_key(file: str, name: str, kind: str, blob: bytes, *, hashed: bool) -> None:
    """Append a host's key to a known_hosts file in a single write, which is safe for concurrent use."""
    if hashed:
        salt = os.urandom(20)
        digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
        name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    path = Path(file)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{name} {kind} {base64.b64encode(blob).decode()}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        # an unterminated last line would swallow the new one
        ended = not path.stat().st_size or path.read_bytes().endswith(b"\n")
        os.write(descriptor, line if ended else b"\n" + line)
    finally:
        os.close(descriptor)


SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""Key types whose signature algorithms have other names."""


def preferred_kinds(known: Sequence[KnownKey]) -> list[str]:
    """Return algorithms of known keys of a host; they are offered first, so that known keys are compared."""
    kinds: list[str] = []
    for key in known:
        if not key.marker:
            kinds += [kind for kind in SIGNATURES.get(key.kind, (key.kind,)) if kind not in kinds]
    return kinds


def check_host_key(host: str, connection: Connection, known: Sequence[KnownKey], kind: str, blob: bytes) -> None:
    """Check a host's key against what `keys_of` returned, else without the port as OpenSSH does; a new host is stored where the user allows it.

    Raises:
        HostKeyError: The key is revoked, changed or unknown.
    """
    name = name_of(connection)
    known = known or [key for key in keys_of(connection.model_copy(update={"port": 22})) if key.blob == blob]
    revoked = [key for key in known if key.marker == "@revoked" and key.blob == blob]
    if revoked:
        raise HostKeyError(
            f"the key of host {host} ({name}) is revoked in {_places(revoked)}: {kind} {fingerprint(blob)}",
            hint="do not connect to this host before its administrator has given it a new key",
        )
    plain = [key for key in known if not key.marker]
    if any(key.blob == blob for key in plain):
        return
    if plain:
        expected = "; ".join(f"{key.kind} {fingerprint(key.blob)} in {key.file}, line {key.line}" for key in plain)
        raise HostKeyError(
            f"the key of host {host} ({name}) has CHANGED: it shows {kind} {fingerprint(blob)}, known is {expected}."
            " Somebody may be listening in between, or the host was installed anew",
            hint=renewal_hint(connection),
        )
    authorities = [key for key in known if key.marker == "@cert-authority"]
    if authorities:
        raise HostKeyError(
            f"host {host} ({name}) is known only through a certificate authority ({_places(authorities)}), which the probing"
            f" connection cannot check; the host shows {kind} {fingerprint(blob)}",
            hint=f"compare the fingerprint with the host's own, then: {key_command(connection, *_NO_CERTIFICATE)}",
        )
    if connection.accept_new_host_keys and connection.known_hosts_files:
        add_known_key(connection.known_hosts_files[0], name, kind, blob, hashed=connection.hash_known_hosts)
        return
    files = ", ".join(connection.known_hosts_files) or "no known_hosts file at all"
    raise HostKeyError(
        f"host {host} ({name}) is not known: it shows {kind} {fingerprint(blob)}, and none of its keys is in {files}",
        hint=f"compare the fingerprint with the host's own, then: {key_command(connection)}",
    )


def renewal_hint(connection: Connection) -> str:
    """Return the commands after a key change: forget the old key, then add the new one."""
    name = name_of(connection)
    files = dict.fromkeys(key.file for key in keys_of(connection) if not key.marker)
    removals = [shlex.join(["ssh-keygen", "-R", name, "-f", file]) for file in files]
    return f"only if you know why it changed: {'; '.join([*removals, key_command(connection)])}"


def _places(keys: Sequence[KnownKey]) -> str:
    return ", ".join(f"{key.file}, line {key.line}" for key in keys)

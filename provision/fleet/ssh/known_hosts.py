"""Known keys of hosts, as `ssh-keygen` finds them in known_hosts files.

Paramiko's HostKeys lacks patterns, negation, certificate authorities and revoked keys, and rewrites the whole file to add a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Marker = Literal["", "@cert-authority", "@revoked"]
_MARKERS: dict[str, Marker] = {"CA": "@cert-authority", "REVOKED": "@revoked"}
_FOUND = re.compile(r"# Host .* found: line (\d+) ?(CA|REVOKED)?")


class KnownKey(NamedTuple):
    """One matching line of a known_hosts file."""

    file: str
    line: int
    marker: Marker
    kind: str
    """`ssh-ed25519`, `ssh-rsa` ..."""
    blob: bytes


def lookup_name(address: str, port: int, alias: str | None) -> str:
    """Return the known_hosts name: the alias, else the address, with the port unless it is 22."""
    if alias:
        return alias
    address = address.lower()
    return address if port == 22 else f"[{address}]:{port}"


def known_keys(files: Iterable[str], name: str) -> list[KnownKey]:
    """Return all lines for a host in file order; missing files and malformed lines are skipped."""
    return [key for file in files if Path(file).is_file() for key in _in_file(file, name)]


def _in_file(file: str, name: str) -> Iterator[KnownKey]:
    # It prints each line below a comment with its number.
    answer = subprocess.run(["ssh-keygen", "-F", name, "-f", file], capture_output=True, check=False)
    lines = iter(answer.stdout.decode(errors="replace").splitlines())
    for found in filter(None, map(_FOUND.fullmatch, lines)):
        marker = _MARKERS.get(found[2], "")
        fields = next(lines, "").split()
        _, kind, key, *_ = [*fields[bool(marker) :], "", "", ""]
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

"""Reader for known_hosts files.

Paramiko's HostKeys lacks patterns, negation, certificate authorities and revoked keys, and gives no file and line.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

Marker = Literal["", "@cert-authority", "@revoked"]
_PLAIN = re.compile(r"[^*?!|A-Z]*")
"""Names that match only themselves."""


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
    return [key for file in files for key in _in_file(file, name)]


def _in_file(file: str, name: str) -> Iterator[KnownKey]:
    try:
        seen = Path(file).stat()
        lines = _lines(file, seen.st_mtime_ns, seen.st_size, seen.st_ino)
    except OSError:
        return
    plain, others = lines
    named = [*plain.get(name.lower(), ()), *(line for line in others if _names(line.patterns, name))]
    for line in sorted(named):
        try:
            blob = base64.b64decode(line.key, validate=True)
        except binascii.Error:
            continue
        yield KnownKey(file, line.number, line.marker, line.kind, blob)


class _Line(NamedTuple):
    number: int
    marker: Marker
    patterns: str
    kind: str
    key: str


@lru_cache(maxsize=8)
def _lines(file: str, mtime_ns: int, size: int, inode: int) -> tuple[Mapping[str, Sequence[_Line]], Sequence[_Line]]:
    """Return the lines of a file that hold a key: by name those of plain names, and the others.

    A fleet asks for each of its hosts. The file's state is an argument so that it is read again when it was written to.

    Raises:
        OSError: The file cannot be read.
    """
    del mtime_ns, size, inode
    plain: dict[str, list[_Line]] = {}
    others = []
    for number, text in enumerate(Path(file).read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        fields = text.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker: Marker = ""
        if fields[0] == "@cert-authority":
            marker = "@cert-authority"
        elif fields[0] == "@revoked":
            marker = "@revoked"
        elif fields[0].startswith("@"):
            continue
        entry = fields[1:] if marker else fields
        if len(entry) < 3:
            continue
        line = _Line(number, marker, *entry[:3])
        if _PLAIN.fullmatch(line.patterns):
            for name in dict.fromkeys(line.patterns.split(",")):
                plain.setdefault(name, []).append(line)
        else:
            others.append(line)
    return plain, others


def _names(patterns: str, name: str) -> bool:
    """Return whether a line's patterns match a name; a matching negated pattern excludes the line."""
    if patterns.startswith("|1|"):
        return _hashed_matches(patterns, name)
    matched = False
    for pattern in patterns.lower().split(","):
        negated = pattern.startswith("!")
        # brackets are literal in known_hosts; only * and ? are wildcards
        if fnmatch.fnmatchcase(name.lower(), pattern.removeprefix("!").replace("[", "[[]")):
            if negated:
                return False
            matched = True
    return matched


def _hashed_matches(field: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in field[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


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

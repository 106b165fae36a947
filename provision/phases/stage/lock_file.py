"""Locks: requirements files with versions and hashes. That of an environment has the one wheel that fits the host for each distribution."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))?(?P<rest>(?: \\\n| --hash).*?)(?=^\S|\Z)",
    re.MULTILINE | re.DOTALL,
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class LockedWheel:
    """A distribution of the lock, its wheel, and the address of that wheel."""

    distribution: str
    version: str
    name: str
    """File name of the wheel."""
    sha256: str
    url: str
    """Empty for a wheel that is built on the controller."""
    size: int | None = None


def lock_text(locked: Sequence[LockedWheel]) -> str:
    """Return a requirements file: one line and one hash a distribution, in alphabetical order, no index address."""
    rows = sorted((canonicalize_name(file.distribution), file.version, file.sha256) for file in locked)
    return "".join(f"{name}=={version} --hash=sha256:{sha256}\n" for name, version, sha256 in rows)


def lock_digest(text: str) -> str:
    """Return the sha256 of the lock's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class LockedPackage:
    """A distribution of a lock with the hashes of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str | None = None
    """The condition under which it is installed; None: always."""


def read_lock(text: str) -> Iterator[LockedPackage]:
    """Yield the distributions of a requirements file with hashes, in its order."""
    for found in _PIN.finditer(text):
        yield LockedPackage(found["name"], found["version"], tuple(_HASH.findall(found["rest"])), found["marker"])

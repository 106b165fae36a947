"""The lock of an environment: for each distribution the one wheel that fits the host."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name


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

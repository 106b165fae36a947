"""The lock: each distribution with the one wheel that fits the host, its hash, and no index address in the text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Locked:
    """A distribution of the lock: its wheel, and where it may be had."""

    distribution: str
    version: str
    name: str
    """File name of the wheel."""
    sha256: str
    url: str
    """Empty for a wheel that is built here."""
    size: int | None = None


def lock_text(locked: Sequence[Locked]) -> str:
    """A requirements file, one line a distribution in alphabetical order, one hash each, no index address."""
    rows = sorted((_canonical(file.distribution), file.version, file.sha256) for file in locked)
    return "".join(f"{name}=={version} --hash=sha256:{sha256}\n" for name, version, sha256 in rows)


def lock_digest(text: str) -> str:
    """sha256 of the lock's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()

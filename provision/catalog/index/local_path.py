"""Addresses that lead nowhere beyond this machine: a path as it is, or a `file:` address."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit


def local_path(address: str) -> Path | None:
    """The path that an address means on this machine; null for one of a network."""
    if "://" not in address:
        return Path(address).expanduser()
    return Path(unquote(urlsplit(address).path)) if address.startswith("file://") else None

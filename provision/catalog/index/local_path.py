"""Local paths in index settings: plain paths and `file:` addresses."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from provision.core.user_path import expand_user


def local_path(address: str) -> Path | None:
    """Return the path on this machine that an address means; None for an address of a network."""
    if "://" not in address:
        return expand_user(address)
    return Path(unquote(urlsplit(address).path)) if address.startswith("file://") else None

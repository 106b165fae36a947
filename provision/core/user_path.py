"""Paths as people write them, and as addresses of indexes name them."""

from pathlib import Path
from urllib.parse import unquote, urlsplit


def expand_user(text: str) -> Path:
    """Return a path with `~` expanded; unchanged where the user is unknown, or no file can have such a name."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)


def local_path(address: str) -> Path | None:
    """Return the path on this machine that an address means; None for an address of a network."""
    if "://" not in address:
        return expand_user(address)
    return Path(unquote(urlsplit(address).path)) if address.startswith("file://") else None

"""Paths as people write them."""

from __future__ import annotations

from pathlib import Path


def expand_user(text: str) -> Path:
    """Return a path with `~` expanded; unchanged where the user is unknown, or no file can have such a name."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, ValueError):
        return Path(text)

"""Tables of external facts: TOML in the repository, JSON inside the zipapp."""

from __future__ import annotations

import json
import pkgutil
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=None)
def table(name: str) -> dict[str, Any]:
    """Return the table `data/NAME`. Raises FileNotFoundError."""
    baked = _baked()
    if name in baked:
        content: dict[str, Any] = baked[name]
        return content
    source = _read(f"data/{name}.toml")
    if source is None:
        raise FileNotFoundError(f"data/{name}.toml")
    return parse_toml(source.decode())


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML, which only the repository has: it needs Python 3.11, the zipapp runs on 3.10 too.

    Raises:
        ValueError: The text is not valid TOML.
    """
    import tomllib  # noqa: PLC0415 - see above

    return tomllib.loads(text)


@lru_cache(maxsize=None)
def _baked() -> dict[str, Any]:
    """Return all tables of the zipapp, which holds them in one file because it compresses better; empty in the repository."""
    content: dict[str, Any] = json.loads(_read("data.json") or b"{}")
    return content


def _read(path: str) -> bytes | None:
    try:
        return pkgutil.get_data("verify", path)
    except OSError:  # zipimport raises no narrower exception for a missing file
        return None

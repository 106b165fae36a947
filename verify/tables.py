"""Facts about the outside world, as tables: TOML in the repository, JSON inside the zipapp."""

from __future__ import annotations

import json
import pkgutil
from functools import cache
from typing import Any


@cache
def table(name: str) -> dict[str, Any]:
    """The table `data/NAME`. Raises FileNotFoundError when it is in neither form."""
    baked = _baked()
    if name in baked:
        content: dict[str, Any] = baked[name]
        return content
    source = _read(f"data/{name}.toml")
    if source is None:
        raise FileNotFoundError(f"data/{name}.toml")
    import tomllib  # Python 3.11: only the repository's own interpreter comes here

    return tomllib.loads(source.decode())


@cache
def _baked() -> dict[str, Any]:
    """All tables by their names, which the zipapp holds in one file: together they pack better. Empty in the repository."""
    content: dict[str, Any] = json.loads(_read("data.json") or b"{}")
    return content


def _read(path: str) -> bytes | None:
    try:
        return pkgutil.get_data("verify", path)
    except OSError:  # zipimport raises no narrower one for a file that the archive does not hold
        return None

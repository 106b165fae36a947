"""Tables of external facts: TOML in the repository, JSON in a program that is packed for hosts."""

from __future__ import annotations

import json
import pkgutil
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=None)
def table(name: str) -> dict[str, Any]:
    """Return the table `data/NAME`. Raises FileNotFoundError."""
    packed = resource(f"data/{name}.json")
    if packed is not None:
        content: dict[str, Any] = json.loads(packed)
        return content
    source = resource(f"data/{name}.toml")
    if source is None:
        raise FileNotFoundError(f"data/{name}.toml")
    return parse_toml(source.decode())


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML, which only the repository has: it needs Python 3.11, packed programs run on 3.10 too.

    Raises:
        ValueError: The text is not valid TOML.
    """
    import tomllib  # noqa: PLC0415 - see above

    return tomllib.loads(text)


def resource(path: str) -> bytes | None:
    """Return a file of this package, also from a zipapp; None where there is none."""
    try:
        return pkgutil.get_data("verify", path)
    except OSError:  # zipimport raises no narrower exception for a missing file
        return None

"""JSON of files, hosts and servers: whatever it holds, the only error is ValueError, and what is returned can be walked and written again."""

from __future__ import annotations

import json
import re
from typing import Any

MOST_DEPTH = 100
"""Of lists and objects in one another; no document of ours or of a tool has ten."""
_HALF = re.compile(r"[\ud800-\udfff]")
"""A half of a pair, which UTF-8 has no bytes for."""


def parse(text: str | bytes) -> Any:
    """The value that a JSON text holds; bytes are read as UTF-8, UTF-16 or UTF-32. Halves of pairs become question marks.

    Raises ValueError when it is no JSON, or nested deeper than MOST_DEPTH.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, (list, dict))]
        if not level:
            return _paired(value) if _may_have_halves(text) else value
    raise ValueError("it is nested too deep")


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises ValueError when it is no JSON, nested too deep, or another value than an object.
    """
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")  # noqa: TRY004 - one error for whatever the text holds
    return value


def _inner(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _may_have_halves(text: str | bytes) -> bool:
    return "\\ud" in text.lower() if isinstance(text, str) else b"\\ud" in text.lower()


def _paired(value: Any) -> Any:
    if isinstance(value, dict):
        return {_HALF.sub("?", key): _paired(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_paired(inner) for inner in value]
    return _HALF.sub("?", value) if isinstance(value, str) else value

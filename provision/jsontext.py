"""JSON of files, hosts and servers: whatever it holds, the only error is ValueError."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """The value that a JSON text holds; bytes are read as UTF-8, UTF-16 or UTF-32.

    Raises ValueError when it is no JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises ValueError when it is no JSON, nested too deep, or another value than an object.
    """
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")  # noqa: TRY004 - one error for whatever the text holds
    return value

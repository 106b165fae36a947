"""JSON parser for untrusted input: it only raises ValueError, and its result can be serialised again. And the form of the product's own files."""

import json
import re
from typing import Any

import pydantic_core

MOST_DEPTH = 100
"""Maximum nesting; documents of this product and its tools need less than ten levels."""
_HALF = re.compile(r"[\ud800-\udfff]")
"""A lone surrogate, which UTF-8 cannot encode."""


def parse(text: str | bytes) -> Any:
    """Parse a JSON text; lone surrogates become question marks.

    Args:
        text: The text; bytes are decoded as UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: The text is not JSON, or nested deeper than MOST_DEPTH.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inner(outer) if isinstance(inner, (list, dict))]
        if not level:
            may_have_halves = "\\ud" in text.lower() if isinstance(text, str) else b"\\ud" in text.lower()
            return _paired(value) if may_have_halves else value
    raise ValueError("it is nested too deep")


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON text that holds an object.

    Raises:
        ValueError: The text is not JSON, is nested too deep, or holds another value.
    """
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")  # noqa: TRY004 - one error for whatever the text holds
    return value


def indented(value: Any) -> str:
    """Return a JSON value as text for a file that people read, without an end of line; numbers that are not finite become null.

    As json.dumps with an indent, which is written in Python and takes six times as long.
    """
    try:
        return pydantic_core.to_json(value, indent=2, inf_nan_mode="null").decode()
    except UnicodeEncodeError:  # half a surrogate pair, as in the name of a file that is not UTF-8
        return json.dumps(value, indent=2)


def _inner(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _paired(value: Any) -> Any:
    if isinstance(value, dict):
        return {_HALF.sub("?", key): _paired(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_paired(inner) for inner in value]
    return _HALF.sub("?", value) if isinstance(value, str) else value

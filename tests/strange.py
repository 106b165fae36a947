"""Unexpected values, for property tests of everything that is read."""

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

TEXT = st.text(
    alphabet="ab9 .,:;/\\-_=%$!'\"`[]{}()<>#*?~@&|\n\t\r\x00\x1b\x7f\x9b\u00e4\u202e\ud800\U0001f600", max_size=12
)
"""Texts that break shells, terminals, parsers and encodings; some are not valid UTF-8."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every value of a document, that of the whole document first."""
    yield here
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from paths(child, (*here, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a document with another value at that path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy

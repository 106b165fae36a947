"""Values that nobody meant, for property tests of what is read."""

from __future__ import annotations

from hypothesis import strategies as st

TEXT = st.text(
    alphabet="ab9 .,:;/\\-_=%$!'\"`[]{}()<>#*?~@&|\n\t\r\x00\x1b\x7f\x9b\u00e4\u202e\ud800\U0001f600", max_size=12
)
"""What shells, terminals, parsers and encodings stumble over; some are no word of UTF-8."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)

"""The quick search for secrets finds whatever the masking would change, also after a new secret was registered."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provision.core import redaction
from provision.core.redaction import MASK, is_clean, register_secret, scrub

WORDS = st.sampled_from(
    (
        "token", "api_key", "--api-key", "--port", "/etc/key", "first_token", "password: tr0ub4dor", "hf_abcdefghijklmnop",
        "sk-abcdefghijklmnop", "ok", "", "x" * 130, "HF_TOKEN=hf_abcdefghijklmnop", "https://me:pa55word@host/x", "note",
    )
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES)
def test_what_the_quick_search_calls_clean_is_not_changed_by_masking(value: Any) -> None:
    masked = redaction._scrub(value)
    assert scrub(value) == masked
    if is_clean(value):
        assert masked == value


@given(value=VALUES)
def test_masked_values_are_clean_or_stay_as_they_are(value: Any) -> None:
    once = scrub(value)
    assert scrub(once) == once


def test_a_text_that_was_clean_is_searched_again_after_a_secret_was_registered() -> None:
    secret = "neither-form-nor-name-shows-it"
    value = {"note": f"used {secret} once", secret: 1}
    assert is_clean(value)
    register_secret(secret)
    assert not is_clean(value)
    assert scrub(value) == {"note": f"used {MASK} once", MASK: 1}

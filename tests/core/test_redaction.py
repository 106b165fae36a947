"""Secrets are masked in every value, also in texts that were written before a secret was registered."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provision.core.redaction import MASK, SHORTEST_KNOWN, register_secret, scrub

WORDS = st.sampled_from(
    (
        "token", "api_key", "--api-key", "--port", "/etc/key", "first_token", "password: tr0ub4dor", "hf_abcdefghijklmnop",
        "sk-abc0efgh1jklmn0p", "ok", "", "x" * 130, "HF_TOKEN=hf_abcdefghijklmnop", "https://me:pa55word@host/x", "note",
    )
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES)
def test_masked_values_stay_as_they_are(value: Any) -> None:
    once = scrub(value)
    assert scrub(once) == once


def test_a_secret_is_masked_from_its_registration_on() -> None:
    secret = "neither-form-nor-name-shows-it"
    value = {"note": f"used {secret} once", secret: 1}
    assert scrub(value) == value
    register_secret(secret)
    assert scrub(value) == {"note": f"used {MASK} once", MASK: 1}


def test_a_registered_secret_is_returned_and_masked_from_the_shortest_length_on() -> None:
    shortest, shorter = "quince"[:SHORTEST_KNOWN], "medlars"[: SHORTEST_KNOWN - 1]
    assert (register_secret(shortest), register_secret(shorter)) == (shortest, shorter) == ("quince", "medla")
    assert scrub([shortest, shorter]) == [MASK, shorter]


def test_a_secret_that_begins_with_another_is_masked_as_a_whole() -> None:
    for secret in ("orchard", "orchard-of-pears"):
        register_secret(secret)
    assert scrub("the orchard-of-pears") == f"the {MASK}"


def test_the_argument_after_an_option_that_names_a_secret_is_masked() -> None:
    words = ["serve", "--api-key", "plain", "--port", "8000", "--token", "--quiet", "note", "token", "five"]
    assert scrub(words) == ["serve", "--api-key", MASK, "--port", "8000", "--token", "--quiet", "note", "token", "five"]

"""The comparison of two releases' answers: what counts as rounding, what as another answer, and how many stop a rollout."""

from typing import Any

import pytest

from provision.features.rollout.gate import Comparison

TOKENS = [11, 12, 13, 14]


def answer(tokens: list[int] | None = None, *, lead: float = 5.0, logprob: float = -0.1) -> dict[str, Any]:
    """Return an answer; token 99 is in second place everywhere."""
    tokens = tokens or TOKENS
    count = len(tokens)
    return {"tokens": tokens, "logprobs": [logprob] * count, "runners_up": [99] * count, "leads": [lead] * count}


def compared(new: list[Any], old: list[Any], *left_out: dict[str, str]) -> Comparison:
    """Return the comparison of answers; `left_out` has why the new release and the old one have not answered texts."""
    of_new, of_old = left_out or ({}, {})
    found = Comparison()
    found.add({"answers": new, "left_out": of_new}, {"answers": old, "left_out": of_old})
    return found


def test_equal_answers_are_counted() -> None:
    found = compared([answer()] * 8, [answer(logprob=-0.2)] * 8)
    assert found == Comparison(8)
    assert (found.is_bad, found.text) == (False, "8 of 8 greedy answers equal those of the old release")


def test_an_exchange_of_two_close_tokens_is_rounding_and_what_follows_says_nothing() -> None:
    found = compared([answer([11, 99, 1, 2], logprob=-0.1)], [answer(lead=0.1)])
    assert (found.near_ties, found.differing) == (1, 0)
    assert found.text == "0 of 1 greedy answers equal those of the old release, 1 after a near tie"


@pytest.mark.parametrize(
    ("new", "old", "first"),
    [
        (answer([11, 99, 13, 14]), answer(lead=3.0), "text 1, token 2 is 99 instead of 12, which led by 3.00 nats"),
        (answer([11, 98, 13, 14]), answer(lead=0.1), "text 1, token 2 is 98 instead of 12, which led by 0.10 nats"),
        (answer(logprob=-2.1), answer(), "text 1, token 1 has another log probability by 2.00 nats"),
        (answer(logprob=float("nan")), answer(), "text 1, token 1 has another log probability by nan nats"),
    ],
)
def test_more_than_rounding_is_named_by_its_first_token(new: dict[str, Any], old: dict[str, Any], first: str) -> None:
    found = compared([new], [old])
    assert (found.differing, found.first) == (1, first)
    assert found.text == f"1 of 1 greedy answers differ from those of the old release: {first}"


def test_half_of_the_answers_stop_a_rollout_and_fewer_do_not() -> None:
    other = answer([1, 2, 3, 4])
    assert compared([other] * 4 + [answer()] * 4, [answer()] * 8).is_bad
    assert not compared([other] * 3 + [answer()] * 5, [answer()] * 8).is_bad
    assert not compared([other] * 3, [answer()] * 3).is_bad, "too few to decide"


def test_a_text_without_an_answer_is_left_out_with_the_reason() -> None:
    why = "/v1/completions: status 400: This model's maximum context length is 128 tokens."
    reasons = {"8": why}
    found = compared([answer()] * 7 + [None], [answer()] * 7 + [None], reasons, reasons)
    assert (found.answers, found.left_out, found.is_bad) == (7, 1, False)
    assert found.text == (
        f"7 of 7 greedy answers equal those of the old release; 1 of 8 texts was left out: text 8: {why}"
    )
    answers = {"answers": [answer()] * 7 + [None], "left_out": reasons}
    found.add(answers, answers)
    assert found.text == (
        f"14 of 14 greedy answers equal those of the old release; 2 of 16 texts were left out: text 8: {why}"
    )


def test_a_text_that_one_release_alone_has_not_answered_names_it() -> None:
    found = compared([None, answer()], [answer(), None], {"1": "it is too long"}, {"2": "it is too late"})
    assert found.text == (
        "no greedy answers were compared; 2 of 2 texts were left out: text 1 with the new release: it is too long"
    )
    assert compared([answer()], [None], {}, {"1": "no"}).why == "text 1 with the old release: no"


def test_without_answers_nothing_is_said() -> None:
    assert compared([], [answer()]) == Comparison()
    assert Comparison().text is None

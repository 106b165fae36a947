"""The statistics of a gate: which releases they stop, which they pass, and with which certainty."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.features.rollout.gate import (
    Measure,
    Observed,
    _rank_test,
    decide,
    failed_requests,
    is_slower,
    thresholds,
)

FAST = tuple(0.010 + number / 10_000 for number in range(100))
"""Seconds, from 10 to 20 ms."""
MEASURES: tuple[Measure, ...] = ("first_token", "inter_token")


def test_without_a_failure_about_five_hundred_requests_decide() -> None:
    verdicts = [failed_requests(count, 0) for count in range(1000)]
    first = verdicts.index("go on")
    assert 500 <= first <= 520
    assert set(verdicts[first:]) == {"go on"}
    assert set(verdicts[:first]) == {"undecided"}


def test_three_failures_in_a_row_stop_and_one_does_not() -> None:
    assert failed_requests(1, 1) == "undecided"
    assert failed_requests(3, 3) == "roll back"


def test_a_share_between_the_two_limits_is_stopped_in_the_end() -> None:
    # 0.39 % is where the ratio neither rises nor falls.
    assert failed_requests(19_999, 78) == "undecided"
    assert failed_requests(20_000, 78) == "roll back"


@given(requests=st.integers(0, 30_000), failed=st.integers(0, 300))
def test_one_failure_more_never_helps_a_release(requests: int, failed: int) -> None:
    order = ["go on", "undecided", "roll back"]
    worse, better = failed_requests(requests + 1, failed + 1), failed_requests(requests + 1, failed)
    assert order.index(worse) >= order.index(better)


def passes(draw: random.Random, share: float) -> bool:
    """Whether one gate lets a release through that fails this share of its requests."""
    batch, requests, failed = thresholds()["sampling"]["requests"], 0, 0
    while True:
        requests += batch
        failed += sum(draw.random() < share for _ in range(batch))
        verdict = failed_requests(requests, failed)
        if verdict != "undecided":
            return verdict == "go on"


def simulate(share: float, *, rollouts: int, steps: int, seed: int) -> int:
    """The number of simulated rollouts of a release that reach their end."""
    draw = random.Random(seed)
    return sum(all(passes(draw, share) for _ in range(steps)) for _ in range(rollouts))


def test_healthy_rollouts_pass_and_bad_ones_do_not() -> None:
    assert simulate(0.0005, rollouts=200, steps=4, seed=1) == 200
    assert simulate(0.01, rollouts=200, steps=4, seed=2) == 0


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("factor", "slower"), [(0.5, False), (1.0, False), (1.2, False), (1.6, True), (3.0, True)])
def test_tokens_may_come_a_quarter_later(factor: float, measure: Measure, *, slower: bool) -> None:
    slow = [value * 10 for value in FAST]
    assert is_slower([value * factor for value in slow], slow, measure) is slower


def test_a_difference_of_few_milliseconds_stops_nothing() -> None:
    assert not is_slower([0.004] * 100, [0.001] * 100, "first_token")
    assert not is_slower([0.0025] * 100, [0.001] * 100, "inter_token")
    assert is_slower([0.004] * 100, [0.001] * 100, "inter_token")


def test_few_or_equal_samples_decide_nothing() -> None:
    for measure in MEASURES:
        assert not is_slower([9.0] * 63, [1.0] * 1000, measure)
        assert not is_slower([9.0] * 1000, [1.0] * 63, measure)
        assert not is_slower([0.1] * 100, [0.1] * 100, measure)


def test_the_p_value_is_that_of_the_rank_sum_corrected_for_ties() -> None:
    # Ranks 3.5, 6, 6 and 8 of eight; ties of two and of three: (23.5 - 18) / sqrt(16 / 12 * (9 - 30 / 56)) = 1.637 deviations.
    assert _rank_test([3, 4, 4, 5], [1, 2, 3, 4]) == pytest.approx(0.050796, abs=1e-6)
    assert _rank_test([2, 2], [2, 2]) == 1.0


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_two_samples_of_one_distribution_are_not_slower(seed: int, scale: float) -> None:
    draw = random.Random(seed)
    one, two = ([scale * draw.lognormvariate(0, 0.5) for _ in range(200)] for _ in range(2))
    assert not any(is_slower(one, two, measure) for measure in MEASURES)


def test_a_release_is_compared_before_it_passes_however_many_requests_clients_send() -> None:
    slow, old = Observed(600, 0, (0.5,) * 40), Observed(600, 0, (0.1,) * 200)
    assert decide(slow, old) == ("undecided", "0 of 600 requests failed; 40 of 64 synthetic requests were timed")
    assert decide(Observed(600, 0, (0.5,)), old)[0] == "undecided", "one request that was timed"
    assert decide(slow.plus(slow), old)[0] == "roll back"
    assert decide(slow, Observed(600, 0))[0] == "go on", "the old release has no times"


def test_a_decision_names_its_numbers() -> None:
    good = Observed(600, 0, FAST)
    assert decide(good, good) == (
        "go on",
        "0 of 600 requests failed; first token after 15 ms, 15 ms with the old release",
    )
    assert decide(Observed(600, 0), None) == ("go on", "0 of 600 requests failed")
    assert decide(good, None) == ("go on", "0 of 600 requests failed; first token after 15 ms")
    assert decide(Observed(600, 30, FAST), good) == (
        "roll back",
        "30 of 600 requests failed; a healthy release fails at most 0.1%",
    )
    beyond = "more than 1.25 times as long, and significant (rank test, p < 0.0001), so the release goes back"
    assert decide(Observed(600, 0, tuple(value * 20 for value in FAST)), good) == (
        "roll back",
        f"first token after 299 ms, 15 ms with the old release: {beyond}",
    )
    steady = Observed(600, 0, FAST, FAST)
    assert decide(steady, steady)[1].endswith("; 14.9 ms between tokens, 14.9 ms with the old release")
    assert decide(Observed(600, 0, FAST, tuple(value * 2 for value in FAST)), steady) == (
        "roll back",
        f"29.9 ms between tokens, 14.9 ms with the old release: {beyond}",
    )
    # Half of the answers are late, and half are not: the median is beyond the limit, and the ranks say nothing.
    mixed = Observed(600, 0, (0.080,) * 31 + (0.125,) * 33)
    assert decide(mixed, Observed(600, 0, (0.082,) * 64)) == (
        "go on",
        (
            "0 of 600 requests failed; first token after 125 ms, 82 ms with the old release: more than 1.25 times as long, "
            "but not significant (rank test, p = 0.37, limit 0.0001), so it stops nothing"
        ),
    )
    assert decide(Observed(100, 0, FAST), good) == ("undecided", "0 of 100 requests failed")

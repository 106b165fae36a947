"""The statistics of a gate: which releases they stop, which they pass, and with which certainty."""

import random
from collections.abc import Sequence
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.features.rollout.gate import (
    Measure,
    Observed,
    Round,
    Verdict,
    decide,
    failed_requests,
    late_rounds,
    thresholds,
)

MEASURES: tuple[Measure, ...] = ("first_token", "inter_token")


def timed(first_token_s: float, inter_token_s: float | None = None, requests: int = 64) -> Observed:
    """One round of requests that all took as long."""
    between = () if inter_token_s is None else (inter_token_s,) * requests
    return Observed(requests, 0, (first_token_s,) * requests, between)


def rounds(new: Sequence[float], old: Sequence[float]) -> list[Round]:
    """Rounds of both releases with these seconds to the first token and between tokens."""
    return [(timed(one, one), timed(other, other)) for one, other in zip(new, old, strict=True)]


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
@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "go on"), (1.0, "go on"), (1.2, "go on"), (1.3, "roll back")])
def test_tokens_may_come_a_quarter_later(factor: float, measure: Measure, verdict: str) -> None:
    assert late_rounds(rounds([0.1 * factor] * 20, [0.1] * 20), measure)[0] == verdict


def test_a_difference_of_few_milliseconds_stops_nothing() -> None:
    assert late_rounds(rounds([0.004] * 20, [0.001] * 20), "first_token")[0] == "go on"
    assert late_rounds(rounds([0.0025] * 20, [0.001] * 20), "inter_token")[0] == "go on"
    assert late_rounds(rounds([0.004] * 20, [0.001] * 20), "inter_token")[0] == "roll back"


@pytest.mark.parametrize(
    ("late", "of", "verdict"),
    [
        (0, 0, "go on"), (0, 7, "undecided"), (0, 8, "go on"), (19, 19, "undecided"), (20, 20, "roll back"),
        (19, 22, "undecided"), (23, 24, "roll back"), (29, 59, "go on"), (40, 59, "undecided"), (40, 60, "go on"),
    ],
)  # fmt: skip
def test_rounds_decide_and_not_requests(late: int, of: int, verdict: str) -> None:
    new = [0.2] * late + [0.1] * (of - late)
    found, text = late_rounds(rounds(new, [0.1] * of), "first_token")
    assert (found, f"in {late} of {of} rounds" in text) == (verdict, late > 0)


def test_rounds_that_say_nothing_count_for_nothing_and_end_the_wait() -> None:
    silent, away = (Observed(64, 64), timed(0.1)), (timed(0.1), Observed())
    slow = rounds([0.2] * 19, [0.1] * 19)
    for nothing in (silent, away):
        assert late_rounds([nothing] * 59, "first_token") == ("undecided", "")
        assert late_rounds([nothing] * 60, "first_token") == ("go on", "")
        assert late_rounds([*slow, nothing], "first_token")[0] == "undecided"
        assert late_rounds([*slow, nothing, slow[0]], "first_token")[0] == "roll back"


def test_a_release_that_answers_is_not_slower_than_one_that_does_not() -> None:
    assert late_rounds([(timed(9.0), Observed(64, 64))] * 8, "first_token") == ("go on", "")


def gates(draw: random.Random, factor: float, spread: float) -> Verdict:
    """One gate on hosts whose rounds are delayed together: all requests of a round by the same share, each host by its own."""
    seen: list[Round] = []
    while True:
        new, old = (draw.lognormvariate(0, spread) for _ in range(2))
        seen += rounds([0.1 * factor * new], [0.1 * old])
        verdict, _ = late_rounds(seen, "first_token")
        if verdict != "undecided":
            return verdict


@pytest.mark.parametrize("spread", [0.05, 0.5, 2.0])
def test_a_release_as_fast_as_the_old_one_passes_however_much_the_hosts_are_disturbed(spread: float) -> None:
    draw = random.Random(3)
    assert [gates(draw, 1.0, spread) for _ in range(300)] == ["go on"] * 300


def test_a_release_twice_as_slow_is_stopped_on_hosts_that_are_disturbed() -> None:
    draw = random.Random(4)
    assert [gates(draw, 2.0, 0.2) for _ in range(300)] == ["roll back"] * 300


def test_a_release_is_compared_before_it_passes_however_many_requests_clients_send() -> None:
    many = Observed(600, 0, (0.5,) * 64)
    assert decide(many, [(many, timed(0.1))]) == (
        "undecided",
        (
            "0 of 600 requests failed; first token after 500 ms, 100 ms with the old release: "
            "more than 1.25 times as long in 1 of 1 rounds"
        ),
    )
    assert decide(many, rounds([0.5] * 20, [0.1] * 20))[0] == "roll back"
    assert decide(many, [])[0] == "go on", "no host of the old release is left"


def test_a_decision_names_its_numbers() -> None:
    good = Observed(600, 0, (0.015,) * 100)
    equal = [(timed(0.015), timed(0.015))] * 8
    assert decide(good, equal) == (
        "go on",
        "0 of 600 requests failed; first token after 15 ms, 15 ms with the old release",
    )
    assert decide(Observed(600, 0), []) == ("go on", "0 of 600 requests failed")
    assert decide(good, []) == ("go on", "0 of 600 requests failed; first token after 15 ms")
    assert decide(Observed(600, 30), equal) == (
        "roll back",
        "30 of 600 requests failed; a healthy release fails at most 0.1%",
    )
    beyond = "more than 1.25 times as long in 20 of 20 rounds, so the release goes back"
    assert decide(Observed(1280, 0, (0.3,) * 1280), [(timed(0.3), timed(0.015))] * 20) == (
        "roll back",
        f"first token after 300 ms, 15 ms with the old release: {beyond}",
    )
    steady, later = [(timed(0.015, one), timed(0.015, 0.0149)) for one in (0.0149, 0.0299)]
    assert decide(reduce(Observed.plus, [steady[0]] * 10), [steady] * 10)[1].endswith(
        "; 14.9 ms between tokens, 14.9 ms with the old release"
    )
    assert decide(reduce(Observed.plus, [later[0]] * 20), [later] * 20) == (
        "roll back",
        f"29.9 ms between tokens, 14.9 ms with the old release: {beyond}",
    )
    mixed = [(timed(0.125), timed(0.082))] * 6 + [(timed(0.082), timed(0.082))] * 11
    assert decide(Observed(600, 0), mixed) == (
        "go on",
        (
            "0 of 600 requests failed; first token after 82 ms, 82 ms with the old release: "
            "more than 1.25 times as long in 6 of 17 rounds"
        ),
    )
    few = Observed(100, 0)
    assert decide(few, equal)[0] == "undecided"
    assert decide(few, [(timed(0.3), timed(0.015))] * 20)[0] == "roll back", "times need no certainty about failures"

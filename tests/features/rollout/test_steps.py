"""The hosts that change together in a rollout."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.errors import UsageError
from provision.features.rollout.steps import DEFAULT_STEPS, assign, batches, parse_steps, require_capacity

RISING = st.sets(st.integers(1, 99), max_size=5).map(lambda found: (*sorted(found), 100))


def test_the_default_steps_rise_to_all_hosts() -> None:
    assert parse_steps(DEFAULT_STEPS) == {10: None, 25: None, 50: None, 100: None}
    assert parse_steps("100") == {100: None}


def test_steps_may_have_times_of_their_own() -> None:
    found = parse_steps("25:1h,50:90m,75:30s,90:0s,100")
    assert found == {25: 3600.0, 50: 5400.0, 75: 30.0, 90: 0.0, 100: None}
    assert list(found) == [25, 50, 75, 90, 100]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "10,50",
        "50,10,100",
        "10,10,100",
        "0,100",
        "-5,100",
        "10,101",
        "a,100",
        "10;100",
        "25:1,100",
        "25:,100",
        "25:1d,100",
        "25:-1h,100",
        "25:1h30m,100",
        "25:1h,25:2h,100",
    ],
)
def test_other_steps_are_refused_with_their_text_and_a_hint(text: str) -> None:
    with pytest.raises(UsageError, match="--steps") as caught:
        parse_steps(text)
    assert f"`--steps {text}`" in caught.value.text
    assert caught.value.hint
    assert DEFAULT_STEPS in caught.value.hint


def test_three_hosts_change_one_by_one_and_the_step_of_25_percent_adds_none() -> None:
    assert assign(["a", "b", "c"], (10, 25, 50, 100)) == {"a": 0, "b": 2, "c": 3}


def test_hosts_of_group_staging_change_first() -> None:
    assert assign(["a", "b", "s"], (0, 50, 100), ["s"]) == {"s": 0, "a": 1, "b": 2}


def test_a_host_that_is_tried_alone_counts_for_the_steps_after_it() -> None:
    assert assign(["a", "b", "c"], (0, 10, 50, 100), first_alone=True) == {"a": 0, "b": 2, "c": 3}


@given(count=st.integers(0, 200), steps=RISING, alone=st.booleans())
def test_after_each_step_the_stated_share_has_changed_rounded_up(
    count: int, steps: tuple[int, ...], alone: bool
) -> None:
    found = assign([f"h{number}" for number in range(count)], steps, first_alone=alone)
    assert len(found) == count
    for index, percent in enumerate(steps):
        assert sum(step <= index for step in found.values()) == math.ceil(count * percent / 100)


@given(count=st.integers(1, 50), more=st.integers(0, 50), data=st.data())
def test_while_a_batch_changes_enough_hosts_serve(count: int, more: int, data: st.DataObject) -> None:
    names, serving = [f"h{number}" for number in range(count)], count + more
    least = data.draw(st.integers(0, serving - 1))
    require_capacity(serving=serving, min_serving=least)
    found = list(batches(names, serving=serving, min_serving=least))
    assert [name for batch in found for name in batch] == names
    assert all(serving - len(batch) >= least for batch in found)


@pytest.mark.parametrize(("serving", "least"), [(1, 1), (3, 3), (3, 7)])
def test_a_rollout_that_could_change_no_host_is_refused(serving: int, least: int) -> None:
    with pytest.raises(UsageError, match=f"--min-serving {least}` leaves no host to change: {serving} serve"):
        require_capacity(serving=serving, min_serving=least)

"""Which lane of tests a process takes next."""

import pytest

from tests.lanes import FLEET, next_lane, rank


def lanes(*names: str) -> list[str]:
    return [f"{FLEET}/test_{name}.py" for name in names]


@pytest.mark.parametrize(
    ("running", "waiting", "expected"),
    [
        ((), ("user", "newcomer", "cards"), "cards"),
        (("cards",), ("newcomer", "user", "roles"), "user"),
        (("user",), ("roles", "newcomer", "containers"), "containers"),
        (("containers", "user"), ("newcomer",), "newcomer"),  # nothing else waits
    ],
)
def test_one_large_lane_runs_at_a_time_from_the_beginning(
    running: tuple[str, ...], waiting: tuple[str, ...], expected: str
) -> None:
    assert [next_lane(lanes(*running), lanes(*waiting))] == lanes(expected)


def test_the_shared_hosts_come_before_the_other_lanes() -> None:
    assert next_lane(lanes("cards"), [*lanes("user"), FLEET, "tests/plan"]) == FLEET


def test_the_longest_lanes_come_first_and_the_shortest_which_need_no_hosts_last() -> None:
    paths = ["tests/ssh/test_limits.py", *lanes("jump_hosts", "span", "watchdog"), "tests/verify/test_in_torch.py"]
    assert sorted(paths, key=rank) == [paths[4], *lanes("watchdog", "span", "jump_hosts"), paths[0]]

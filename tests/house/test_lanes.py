"""Which lane of tests a process takes next."""

import pytest

from tests.lanes import FLEET, next_lane


def lanes(*names: str) -> list[str]:
    return [f"{FLEET}/test_{name}.py" for name in names]


@pytest.mark.parametrize(
    ("running", "waiting", "expected"),
    [
        ((), ("containers", "user"), "containers"),
        (("containers",), ("newcomer", "user", "cards"), "user"),
        (("newcomer",), ("containers", "cards", "user"), "cards"),
        (("newcomer", "cards"), ("real_drivers", "user"), "user"),
        (("containers", "user"), ("newcomer", "cards"), "newcomer"),  # nothing else waits
    ],
)
def test_large_lanes_wait_for_each_other_while_others_run(
    running: tuple[str, ...], waiting: tuple[str, ...], expected: str
) -> None:
    assert [next_lane(lanes(*running), lanes(*waiting))] == lanes(expected)

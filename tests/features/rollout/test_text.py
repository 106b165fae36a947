"""What a person reads of a rollout."""

import pytest

from provision.features.rollout.model import Decision, HostProgress, RolloutState
from provision.features.rollout.text import ABORTED, described
from tests.features.rollout.site import NEW, OLD, recorded

BAD = Decision(step=0, at="2026-11-20T10:17:00Z", verdict="roll back", text="5 of 64 requests failed")
GO_ON = "next: ./firstlight rollout resume, or ./firstlight rollout abort"


def lines(state: RolloutState, *hosts: HostProgress, driven: bool = True, text: str = BAD.text) -> list[str]:
    rollout = recorded(*hosts, state=state, text=text, inventory="/my site/hosts.yml", decisions=(BAD,))
    return described(rollout, driven=driven)


def test_a_host_that_failed_is_the_one_to_look_at() -> None:
    *_, left, look, then = lines("failed", "returned", "failed")
    assert left == (
        f"left: ./firstlight rollback -i '/my site/hosts.yml' --limit b --to {OLD}"
        "  # when b answers; it gets no requests until then"
    )
    assert look == "next: ./firstlight doctor -i '/my site/hosts.yml' --limit b  # shows why"
    assert then == "then: ./firstlight rollout -i '/my site/hosts.yml'  # with another release, or after a repair"


@pytest.mark.parametrize(
    ("found", "last"),
    [
        (lines("running", "changing", "waiting"), f"     100 %  b  not changed yet: release {OLD}"),
        (lines("running", "changing", "waiting", driven=False), GO_ON),
        (lines("paused", "updated", "waiting"), GO_ON),
        (lines("done", "updated", "updated"), f"     100 %  b  serves release {NEW}, before it {OLD}"),
        (lines("rolled back", "returned", "waiting", text=ABORTED), f"     100 %  b  not changed: release {OLD}"),
    ],
    ids=["running", "left alone", "paused", "done", "aborted by a person"],
)
def test_a_rollout_says_what_is_left_to_do(found: list[str], last: str) -> None:
    assert found[-1] == last

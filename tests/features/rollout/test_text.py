"""What a person reads of a rollout."""

from __future__ import annotations

import pytest

from provision.features.rollout.model import Decision, HostProgress, Rollout, RolloutHost, RolloutState
from provision.features.rollout.text import ABORTED, described

OLD, NEW = "0" * 16, "1" * 16
BAD = Decision(step=0, at="2026-11-20T10:17:00Z", verdict="roll back", text="5 of 64 requests failed")


def rollout(state: RolloutState, *hosts: HostProgress, text: str = BAD.text) -> Rollout:
    return Rollout(
        name="20261120T101500Z",
        inventory="/my site/hosts.yml",
        steps=(50, 100),
        started_at="2026-11-20T10:15:00Z",
        state=state,
        text=text,
        decisions=(BAD,),
        hosts=tuple(
            RolloutHost(name=f"gpu-{number}", step=number - 1, before=OLD, after=NEW, state=each)
            for number, each in enumerate(hosts, 1)
        ),
    )


def test_a_rollout_that_went_back_ends_with_what_to_do_next() -> None:
    assert described(rollout("rolled back", "returned", "waiting"), driven=True) == [
        "rollout 20261120T101500Z: rolled back: 5 of 64 requests failed",
        f"      50 %  gpu-1  went back to release {OLD}",
        "            gate: roll back: 5 of 64 requests failed",
        f"     100 %  gpu-2  not changed: release {OLD}",
        "next: ./firstlight doctor -i '/my site/hosts.yml' --limit gpu-1  # shows why",
        "then: ./firstlight rollout -i '/my site/hosts.yml'  # with another release, or after a repair",
    ]


def test_a_host_that_failed_is_the_one_to_look_at() -> None:
    lines = described(rollout("failed", "returned", "failed"), driven=True)
    assert lines[-3] == (
        f"left: ./firstlight rollback -i '/my site/hosts.yml' --limit gpu-2 --to {OLD}"
        "  # when gpu-2 answers; it gets no requests until then"
    )
    assert lines[-2].startswith("next: ./firstlight doctor -i '/my site/hosts.yml' --limit gpu-2 ")


@pytest.mark.parametrize(
    ("found", "driven", "last"),
    [
        (rollout("running", "changing", "waiting"), True, f"     100 %  gpu-2  not changed yet: release {OLD}"),
        (
            rollout("running", "changing", "waiting"),
            False,
            "next: ./firstlight rollout resume, or ./firstlight rollout abort",
        ),
        (
            rollout("paused", "updated", "waiting"),
            True,
            "next: ./firstlight rollout resume, or ./firstlight rollout abort",
        ),
        (rollout("done", "updated", "updated"), True, f"     100 %  gpu-2  serves release {NEW}, before it {OLD}"),
        (
            rollout("rolled back", "returned", "waiting", text=ABORTED),
            True,
            f"     100 %  gpu-2  not changed: release {OLD}",
        ),
    ],
    ids=["running", "left alone", "paused", "done", "aborted by a person"],
)
def test_a_rollout_says_what_is_left_to_do(found: Rollout, driven: bool, last: str) -> None:
    assert described(found, driven=driven)[-1] == last

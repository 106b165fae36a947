"""Which hosts of a rollout a later `rollback` has taken back."""

import pytest

from provision.features.rollout.model import with_releases
from tests.features.rollout.site import NEW, OLD, recorded

THIRD = "2" * 16
RUN = "20260102T000000Z"
ROLLOUT = recorded("updated", "updated", state="done")


@pytest.mark.parametrize("release", [OLD, THIRD])
def test_a_host_that_leaves_the_release_of_the_rollout_was_taken_back(release: str) -> None:
    found = with_releases(ROLLOUT, {"b": release}, RUN)
    assert found.taken_back() == [found.host("b")]
    assert found.host("b") == ROLLOUT.host("b").model_copy(
        update={"state": "returned", "returned_to": release, "run": RUN}
    )
    assert (found.state, found.host("a")) == ("done", ROLLOUT.host("a"))


def test_a_host_that_comes_back_to_the_release_of_the_rollout_serves_it_again() -> None:
    there = with_releases(ROLLOUT, {"b": OLD}, RUN)
    back = with_releases(there, {"b": NEW}, "20260103T000000Z")
    assert back.host("b") == ROLLOUT.host("b").model_copy(update={"run": "20260103T000000Z"})


@pytest.mark.parametrize("releases", [{"b": NEW}, {"b": None}, {"elsewhere": OLD}])
def test_a_host_that_did_not_move_stays_as_it_is(releases: dict[str, str | None]) -> None:
    assert with_releases(ROLLOUT, releases, RUN) == ROLLOUT


def test_a_host_that_the_rollout_could_not_take_back_is_back_when_it_has_its_earlier_release() -> None:
    failed = ROLLOUT.with_host("b", state="failed")
    assert with_releases(failed, {"b": OLD}, RUN).taken_back() == [
        failed.host("b").model_copy(update={"state": "returned", "returned_to": OLD, "run": RUN})
    ]
    assert with_releases(failed, {"b": THIRD}, RUN) == failed


@pytest.mark.parametrize("state", ["waiting", "returned"])
def test_a_host_that_the_rollout_did_not_leave_on_its_release_stays_as_it_is(state: str) -> None:
    rollout = ROLLOUT.with_host("b", state=state)
    assert with_releases(rollout, {"b": OLD}, RUN) == rollout

"""The record of a rollout, and the process that controls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from provision.core.errors import HostLockedError, UsageError
from provision.features.rollout.store import RolloutStore
from tests.features.rollout.site import recorded

ROLLOUT = recorded("waiting", "waiting")
OTHER = """
import sys
from pathlib import Path
from provision.features.rollout.store import RolloutStore
with RolloutStore(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> RolloutStore:
    return RolloutStore(tmp_path)


def test_the_newest_rollout_is_read_as_it_was_written(store: RolloutStore) -> None:
    assert store.newest() is None
    store.put(ROLLOUT)
    later = ROLLOUT.model_copy(update={"name": "20260102T000000Z"}).with_host("a", state="updated", after="1" * 16)
    store.put(later)
    assert store.newest() == later


def test_the_newest_rollout_is_revised_while_no_other_process_drives_it(store: RolloutStore, tmp_path: Path) -> None:
    store.revise_newest(lambda rollout: rollout)
    assert list(tmp_path.iterdir()) == []
    store.put(ROLLOUT)
    store.revise_newest(lambda rollout: rollout.with_host("a", state="updated"))
    assert store.newest() == ROLLOUT.with_host("a", state="updated")
    with store.locked(), pytest.raises(HostLockedError):
        store.revise_newest(lambda rollout: rollout)


def test_the_rollout_of_a_run_is_found_by_the_names_that_it_keeps(store: RolloutStore) -> None:
    assert store.with_run("20260101T000000Z") is None
    first = ROLLOUT.model_copy(update={"runs": ("20260101T000000Z", "20260101T000100Z")})
    store.put(first)
    store.put(ROLLOUT.model_copy(update={"name": "20260102T000000Z", "runs": ("20260102T000000Z",)}))
    assert store.with_run("20260101T000100Z") == first
    assert store.with_run("20260101T000200Z") is None, "a run between two rollouts"
    assert store.with_run("20251231T000000Z") is None


def test_a_record_of_an_earlier_release_is_read(store: RolloutStore, tmp_path: Path) -> None:
    store.put(ROLLOUT)
    path = tmp_path / "rollouts" / f"{ROLLOUT.name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"targets": "/srv/targets.json"}))
    assert store.newest() == ROLLOUT


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"name": "x"}', b"\xff"])
def test_a_damaged_record_is_refused_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rollouts" / "20260101T000000Z.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UsageError, match="it is no record of a rollout") as caught:
        RolloutStore(tmp_path).newest()
    assert str(path) in caught.value.text
    assert caught.value.hint


@pytest.mark.parametrize("state", ["running", "paused", "returning", "done", "rolled back", "failed"])
def test_only_a_rollout_with_work_left_is_open(store: RolloutStore, state: str) -> None:
    store.put(ROLLOUT.model_copy(update={"state": state}))
    if state in ("running", "paused", "returning"):
        assert store.require_open().state == state
        with pytest.raises(UsageError, match=f"20260101T000000Z is not over: {state}"):
            store.require_none_open()
    else:
        store.require_none_open()
        with pytest.raises(UsageError, match=f"no rollout is open; the newest, 20260101T000000Z, is over: {state}"):
            store.require_open()


def test_one_process_drives_and_its_death_ends_the_lock(store: RolloutStore, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert store.is_driven()
        with pytest.raises(HostLockedError, match="another process drives a rollout"), store.locked():
            pytest.fail("two processes drive")
        other.kill()
    assert not store.is_driven()


def test_a_request_is_read_once(store: RolloutStore) -> None:
    store.put(ROLLOUT)
    assert store.take_wish() is None
    store.wish("pause")
    store.wish("abort")
    assert (store.take_wish(), store.take_wish()) == ("abort", None)

"""Snapshots of serving hosts: which one belongs to a state of the product, and which stay in the cache."""

import fcntl
from pathlib import Path

from tests.fleet.snapshots import COMPLETE, remove_unused, state_of


def test_snapshots_of_other_states_stay_only_while_they_are_used(tmp_path: Path) -> None:
    for name in ("current", "used", "unused", "incomplete"):
        (tmp_path / f"serving-{name}/layer").mkdir(parents=True)
    for name in ("current", "used", "unused"):
        (tmp_path / f"serving-{name}" / COMPLETE).touch()
    (tmp_path / "serving.lock").touch()
    with (tmp_path / "serving-used" / COMPLETE).open() as user:
        fcntl.flock(user, fcntl.LOCK_SH)
        remove_unused(tmp_path, but="serving-current")
        assert {path.name for path in tmp_path.iterdir()} == {"serving-current", "serving-used", "serving.lock"}
    remove_unused(tmp_path, but="serving-current")
    assert {path.name for path in tmp_path.iterdir()} == {"serving-current", "serving.lock"}


def test_a_snapshot_is_of_the_product_and_not_of_what_tools_write_beside_it(tmp_path: Path) -> None:
    module = tmp_path / "verify/checks.py"
    for path in (module, tmp_path / "verify/.ruff_cache/0.15/1", tmp_path / "playbooks/__pycache__/a.pyc.14"):
        before = state_of(tmp_path, [])
        path.parent.mkdir(parents=True)
        path.write_text("one")
        assert (state_of(tmp_path, []) == before) == (path != module)
    before = state_of(tmp_path, [])
    module.write_text("two")
    assert state_of(tmp_path, []) != before

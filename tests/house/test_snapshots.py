"""Which snapshots of serving hosts stay in the cache of the test hosts."""

import fcntl
from pathlib import Path

from tests.fleet.snapshots import COMPLETE, remove_unused


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

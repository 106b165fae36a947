"""The file of targets that a rollout keeps for balancers: runs on hosts are substitutes, its record and the file are real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from provision.core.errors import Exit
from provision.features.rollout import commands as rollout
from tests.features.rollout.site import OLD, KilledError, Site, make, named, watched

__all__ = ["make"]


def test_the_file_of_targets_has_only_hosts_that_take_requests(make: Callable[..., Site], tmp_path: Path) -> None:
    site, path = make(), tmp_path / "targets.json"
    seen = watched(site, path)
    assert site.start(targets=path) == Exit.OK
    assert seen == [
        ("serve a", "bcd"),
        ("gate a,b", "abcd"),
        ("serve b", "acd"),
        ("gate a,b,c", "abcd"),
        ("serve c,d", "ab"),
        ("gate a,b,c,d", "abcd"),
    ]
    assert named(path) == "abcd"


def test_hosts_that_go_back_are_no_targets_meanwhile(make: Callable[..., Site], tmp_path: Path) -> None:
    site, path = make(), tmp_path / "targets.json"
    site.bad, site.stays_bad = {"b"}, True
    seen = watched(site, path)
    assert site.start(targets=path) == Exit.RED
    assert seen == [("serve a", "bcd"), ("gate a,b", "abcd"), ("serve b", "acd"), ("rollback a,b", "cd")]
    assert named(path) == "abcd"


def test_a_killed_controller_leaves_the_host_at_work_out_of_the_targets(
    make: Callable[..., Site], tmp_path: Path
) -> None:
    site, path = make(), tmp_path / "targets.json"

    def kill(count: int) -> None:
        if count == 4:
            raise KilledError

    site.before_run = kill
    with pytest.raises(KilledError):
        site.start(targets=path)
    assert (site.runs[-1], named(path)) == ("serve b", "acd")
    site.before_run = lambda _: None
    assert rollout.resume(site.request()) == Exit.OK
    assert named(path) == "abcd"


def test_targets_that_cannot_be_written_pause_before_a_host_changes(make: Callable[..., Site], tmp_path: Path) -> None:
    site = make()
    (tmp_path / "file").write_text("")
    assert site.start(targets=tmp_path / "file/targets.json") == Exit.RED
    assert (site.record().state, set(site.serves.values())) == ("paused", {OLD})
    assert "cannot be written" in str(site.record().text)

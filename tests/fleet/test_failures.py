"""Runs that fail on a real host name their own cause at the top of their summary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.hosts import FleetHost
from tests.fleet.walks import Walker

pytestmark = pytest.mark.fleet


@pytest.fixture
def firstlight(tmp_path: Path) -> Walker:
    return Walker(tmp_path / "logs")


@pytest.fixture
def small_disk(pair: list[FleetHost]) -> Iterator[FleetHost]:
    """A host whose prefix has 100 MiB."""
    host = pair[1]
    host.sh("mount -t tmpfs -o size=100M tmpfs /opt")
    yield host
    host.sh("umount /opt")


def test_a_full_disk_is_the_cause(small_disk: FleetHost, firstlight: Walker, tmp_path: Path) -> None:
    ended = firstlight("provision", "-i", str(small_disk.inventory(tmp_path)))
    assert ended.cause(small_disk.name) == "disk-full"

"""Hosts on which rollouts are tried."""

from pathlib import Path

import pytest

from provision.features.rollout import commands as rollout
from provision.features.rollout import driver as rollout_driver
from provision.pipeline import operations, runner
from tests.features.rollout.site import Make, Site


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(*names: str, folder: str = "logs") -> Site:
        site = Site(tmp_path / folder, names)
        for module in (operations, rollout, rollout_driver):
            monkeypatch.setattr(module, "execute", site.execute)
        for module in (rollout, runner):
            monkeypatch.setattr(module, "read_inventory", site.inventory)
        return site

    return make


@pytest.fixture
def site(make: Make) -> Site:
    """Four hosts, without a gateway."""
    return make("a", "b", "c", "d")

"""Fixtures of tests on a host of their own: one that serves, unless a file makes another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.snapshots import boot_serving


@pytest.fixture(scope="module")
def firstlight(tmp_path_factory: pytest.TempPathFactory) -> CommandRunner:
    return CommandRunner(tmp_path_factory.mktemp("run") / "logs")


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> Iterator[FleetHost]:
    [host] = boot_serving(fleet)
    yield host
    host.remove()


@pytest.fixture(scope="module")
def inventory(host: FleetHost, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(host.inventory(tmp_path_factory.mktemp("inventory")))

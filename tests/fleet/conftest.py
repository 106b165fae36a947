"""Fixtures of tests on a host of their own: one that serves, unless a file makes another."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.command_runner import CommandRunner
from tests.fleet.fixtures import booted
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.snapshots import boot_serving


@pytest.fixture(scope="module", autouse=True)
def _no_host_is_left() -> Iterator[None]:
    """Remove the hosts that a file's tests booted."""
    yield
    for fleet in booted():
        fleet.remove_hosts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs and the inventories of a file's tests."""
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def firstlight(folder: Path) -> CommandRunner:
    return CommandRunner(folder / "logs")


@pytest.fixture(scope="module")
def host(fleet: Fleet) -> FleetHost:
    [host] = boot_serving(fleet)
    return host


@pytest.fixture(scope="module")
def inventory(host: FleetHost, folder: Path) -> str:
    return str(host.inventory(folder / "first"))

"""Fixtures of the whole suite: one fleet of test hosts, whichever tests ask for it."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.fleet import ahead
from tests.fleet.fixtures import fleet, impossible, pair, wheels_for_once

# What a user's own refresh added to the catalog is no part of what is tested; set before the first table is read.
os.environ["FIRSTLIGHT_CATALOG"] = str(Path(__file__).parent / "no-overlays")

# Where the whole suite decides about a change, the same examples are drawn each time; elsewhere new ones, so that more is tried.
settings.register_profile("same-examples", derandomize=True)
if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
    settings.load_profile("same-examples")

# Who starts the suite in the background of a script has Ctrl-C ignored, and so would be every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["fleet", "pair", "wheels_for_once"]

_AHEAD = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need hosts come last in one process: what hosts are made of is made beside the others."""
    items.sort(key=_needs_hosts)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes, tests on hosts all run in one, from the beginning: they share a network and the machine's memory.

    Of the others those of one folder stay together, for their fixtures' sake.
    """
    from tests.lanes import Lanes

    return Lanes(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where both kinds run, and hosts can be had; in the first process alone."""
    kinds = {_needs_hosts(item) for item in session.items}
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if first and len(kinds) == 2 and not session.config.getoption("collectonly") and impossible() is None:
        session.stash[_AHEAD] = ahead.start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing goes on after the last test."""
    if (started := session.stash.get(_AHEAD, None)) is not None:
        ahead.end(started)


def _needs_hosts(item: pytest.Item) -> bool:
    return item.get_closest_marker("fleet") is not None

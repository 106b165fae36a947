"""Fixtures and markers of the whole suite."""

import os
import signal
import subprocess
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

from tests import levels
from tests.fleet import ahead
from tests.fleet.fixtures import end_of_journals, fleet, impossible, pair, wheels_for_file, wheels_for_once
from tests.lanes import FLEET, Lanes, rank

# Overlays from a `catalog refresh` of the user must not change results; set before the first table is read.
os.environ["FIRSTLIGHT_CATALOG"] = str(Path(__file__).parent / "no-overlays")

# Texts are as wide as in a file, whatever the terminal; readline, which pytest loads, sets the variable to 80 without one.
os.environ["COLUMNS"] = "100"

# CI draws the same examples each time; other runs draw new ones. None of them is timed: a busy machine is no defect.
settings.register_profile("same-examples", derandomize=True, deadline=None)
settings.register_profile("new-examples", deadline=None)
settings.load_profile("same-examples" if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET") else "new-examples")
if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
    # Hypothesis also draws constants of all modules that are loaded, and those depend on the order of the tests.
    setattr(providers, "_get_local_constants", Constants)  # noqa: B010 - it has no setting for this

# A script that starts the suite in the background ignores Ctrl-C, and programs under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["fleet", "pair", "wheels_for_file", "wheels_for_once"]

SLOW_FIXTURES = {"browser", "torch_python", "vllm_python"}
"""Fixtures that start Chromium, or an environment with torch or vLLM."""
_PREPARATION = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of tests/levels.py."""
    about = f"which of the {levels.PARTS} parts of the long tests runs: its number, `today` or `all`"
    parser.addoption("--long-share", default="all", metavar="PART", help=about)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests on hosts, which come last, and slow tests, which long ones are too; leave out long tests without a turn."""
    for item in items:
        if _needs_hosts(item):
            item.add_marker("fleet")
        fixtures = getattr(item, "fixturenames", ())
        if _needs_hosts(item) or not SLOW_FIXTURES.isdisjoint(fixtures) or item.get_closest_marker("long"):
            item.add_marker("slow")
    items.sort(key=lambda item: (rank(path := item.nodeid.partition("::")[0]), path))
    if (share := levels.share_of(config.getoption("long_share"), datetime.now(UTC))) is not None:
        left_out = levels.leave_out(items, share)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each process begin to collect at another folder and file, so that it finds what others have compiled already; they are sorted later."""
    report = yield
    if isinstance(collector, pytest.Directory) and (process := os.environ.get("PYTEST_XDIST_WORKER")):
        found, count = report.result, int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        start = len(found) * int(process.removeprefix("gw")) // count
        report.result = [*found[start:], *found[:start]]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of each host's journal to the report of a failed test on hosts."""
    report = yield
    if report.failed and _needs_hosts(item):
        report.sections += end_of_journals()
    return report


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole lanes of tests, so that tests that share a fixture find it made."""
    return Lanes(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start to build host images if other tests run first; only in the first process."""
    kinds = {_needs_hosts(item) for item in session.items}
    first = os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0"
    if first and len(kinds) == 2 and not session.config.getoption("collectonly") and impossible() is None:
        session.stash[_PREPARATION] = ahead.start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the build of host images after the last test."""
    if (started := session.stash.get(_PREPARATION, None)) is not None:
        ahead.end(started)


def _needs_hosts(item: pytest.Item) -> bool:
    return item.nodeid.startswith(f"{FLEET}/")

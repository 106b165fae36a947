"""Fixtures of the whole suite: one fleet of test hosts, whichever tests ask for it."""

import os
import signal
from pathlib import Path

from hypothesis import settings

from tests.fleet.fixtures import fleet, pair

# What a user's own refresh added to the catalog is no part of what is tested; set before the first table is read.
os.environ["FIRSTLIGHT_CATALOG"] = str(Path(__file__).parent / "no-overlays")

# Where the whole suite decides about a change, the same examples are drawn each time; elsewhere new ones, so that more is tried.
settings.register_profile("same-examples", derandomize=True)
if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
    settings.load_profile("same-examples")

# Who starts the suite in the background of a script has Ctrl-C ignored, and so would be every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["fleet", "pair"]

"""Fixtures of the whole suite: one fleet of test hosts, whichever tests ask for it."""

import os
from pathlib import Path

from tests.fleet.fixtures import fleet, pair

# What a user's own refresh added to the catalog is no part of what is tested; set before the first table is read.
os.environ["FIRSTLIGHT_CATALOG"] = str(Path(__file__).parent / "no-overlays")

__all__ = ["fleet", "pair"]

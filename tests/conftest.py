"""Fixtures of the whole suite: one fleet of test hosts, whichever tests ask for it."""

from tests.fleet.fixtures import fleet, pair

__all__ = ["fleet", "pair"]

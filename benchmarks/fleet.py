"""The test hosts of tests/fleet for a benchmark; they are removed whatever happens."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.harness import say
from tests.fleet.fixtures import impossible
from tests.fleet.hosts import Fleet, remove_leftovers


@contextmanager
def hosts_to_boot() -> Iterator[Fleet]:
    """Return a fleet to boot hosts. Ends the program with the reason if this machine cannot boot hosts."""
    reason = impossible()
    if reason is not None:
        sys.exit(f"error: {reason}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Unlike the default, this lets the hosts be removed.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    remove_leftovers(say)
    fleet = Fleet()
    try:
        yield fleet
    finally:
        fleet.remove()

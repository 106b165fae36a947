"""Waiting in tests: for a condition, never for a time."""

import time
from collections.abc import Callable

PATIENCE_S = 600.0
"""A limit of waits for what comes at once on an idle machine. It says nothing of how long that takes: a busy machine passes too."""
OUTLASTS_S = 900
"""How long a process runs that a test expects to be ended: it must not end by itself while the test waits for that."""


def wait_until(
    seen: Callable[[], object], otherwise: str | Callable[[], str] = "it never is so", *, every_s: float = 0.05
) -> None:
    """Wait until a condition is true. One that cannot be asked yet, because a file or a server is missing, is not true.

    Args:
        seen: The condition.
        otherwise: What the test says where it never becomes true, or a call that returns it.
        every_s: Seconds between two looks.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if seen():
                return
        except (OSError, StopIteration):
            pass
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(every_s)

"""Ctrl-C, SIGTERM and a closed terminal while a playbook runs: remembered, so that Ansible can be ended in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def remembered_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether one of the signals arrived; always false outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    before = {number: signal.signal(number, lambda *_: came.set()) for number in HANDLED}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

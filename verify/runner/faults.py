"""Faults that can be injected to prove that checks detect them. They change what a check observes, never the host."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Mapping

FAULTS: Mapping[str, str] = {
    "wrong-result": "one element of a kernel's result is off by one part in a hundred",
    "wrong-kernel": "another kernel runs than the one that was asked for",
    "missing-gpu": "the PCI bus has a GPU that torch does not see",
    "sick-gpu": "a GPU reports problems: errors, lost links, limits, modes, a kernel log that names it",
    "slow": "torch computes with one thread and without vector instructions",
    "stale-library": "a library does not belong to this environment",
    "injected-code": "the environment has a file that no wheel contains",
    "wrong-lock": "the lock names another version than the installed one",
    "changed-service": "the running service differs from the plan: its unit, process, address or model",
    "failed-requests": "the endpoint does not answer a request",
    "ignored-parameter": "the endpoint ignores a parameter of a request",
    "crash": "the check's process ends with a segmentation fault",
    "hang": "the check never ends",
}

ANY_CHECK = frozenset({"crash", "hang"})
"""Faults that every check detects, because they hit its process."""


def inject(faults: frozenset[str]) -> None:
    """Crash or hang this process if that was injected."""
    if "crash" in faults:
        faulthandler.disable()  # an intended crash needs no dump
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in faults:
        while True:
            time.sleep(60)

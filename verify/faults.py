"""Faults that can be injected, to prove that the checks fire. Each spoils what a check observed, never the host."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Mapping

FAULTS: Mapping[str, str] = {
    "wrong-result": "one element of a kernel's result is off by one part in a hundred",
    "wrong-kernel": "another kernel runs than the one that was asked for",
    "missing-gpu": "a GPU is on the PCI bus that torch does not see",
    "sick-gpu": "a GPU says of itself that it is ill: errors, lost links, limits, modes, a kernel log that names it",
    "slow": "torch computes with one thread only and without vector instructions",
    "stale-library": "a library is not the one that belongs to this environment",
    "injected-code": "a file lies in the environment that no wheel contains",
    "wrong-lock": "the lock names another version than the installed one",
    "changed-service": "what serves is not what was planned: its unit, its process, its address, its model",
    "failed-requests": "the endpoint leaves a request without an answer",
    "crash": "the check's process ends by a segmentation fault",
    "hang": "the check never ends",
}

ANY_CHECK = frozenset({"crash", "hang"})
"""Faults that hit the process of a check, whatever it checks."""


def inject(faults: frozenset[str]) -> None:
    """In the process of a check: crash or hang when that was injected, else return."""
    if "crash" in faults:
        faulthandler.disable()  # a crash on purpose needs no dump
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in faults:
        while True:
            time.sleep(60)

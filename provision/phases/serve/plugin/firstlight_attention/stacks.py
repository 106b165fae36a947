"""Lets the host's watchdog read the stacks of an engine that hangs, without a program that traces it.

On a real-time signal faulthandler writes the Python stacks of all threads into a file in memory, also while one of them waits with the GIL.
The file's name tells the signal: the watchdog finds it among the open files of the process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys


def register() -> None:
    """Register the signal in this process."""
    number = signal.SIGRTMIN + 7
    try:
        faulthandler.register(number, file=os.memfd_create(f"firstlight-stacks-{number}"), all_threads=True)
    except Exception as problem:  # noqa: BLE001  # the engine must start whatever happens here
        sys.stderr.write(f"firstlight_attention: stacks cannot be requested: {problem!r}\n")

"""`python -m tests.fleet.ahead`: what test hosts are made of, made while the tests that need none run.

A fixture that wants one of them waits for it, or makes it itself, and tells what went wrong.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.fleet.layers import DRIVER_LIBRARIES, FOR_A_USER, RPM_TOOLS, root_with
from tests.fleet.root import TRIXIE, bare_root

ROOT = Path(__file__).resolve().parents[2]


def start() -> subprocess.Popen[bytes]:
    """In a session and a mount space of its own, so that all of it can be ended at once."""
    return subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-m", "tests.fleet.ahead"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """What is half made then is made anew by whoever wants it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


if __name__ == "__main__":
    for packages in ((), FOR_A_USER, RPM_TOOLS, DRIVER_LIBRARIES):
        root_with(packages)
    bare_root(TRIXIE)

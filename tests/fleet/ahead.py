"""`python -m tests.fleet.ahead`: makes the roots of test hosts while tests that need no host run.

A fixture that needs one waits for it, or makes it itself and reports the error.
"""

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
    """Start in a new session and mount namespace, so that all processes can be ended at once."""
    return subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-m", "tests.fleet.ahead"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """End the build; a fixture that needs an unfinished root makes it again."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


if __name__ == "__main__":
    for packages in ((), FOR_A_USER, RPM_TOOLS, DRIVER_LIBRARIES):
        root_with(packages)
    bare_root(TRIXIE)

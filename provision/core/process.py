"""Programs on the controller, run to their end with captured output."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.core.errors import FirstlightError


def run_program(
    command: Sequence[str],
    timeout_error: FirstlightError,
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program without input and capture its output as text. The caller checks the exit status.

    It has the environment of this process, or `env` alone. `timeout_error` is raised when it does not end in time.
    """
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise timeout_error from None

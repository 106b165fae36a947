"""Commands whose output tells something about the host."""

import subprocess
from collections.abc import Sequence
from typing import Any


def printed(command: Sequence[str], *, limit_s: float, **options: Any) -> str:
    """Return what a command prints; empty where it cannot be run or does not end in time.

    Args:
        command: The command and its arguments.
        limit_s: Seconds that it gets.
        options: More arguments of subprocess.run, such as `user` and `env`.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, **options
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return str(done.stdout)

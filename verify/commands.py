"""Commands whose output tells something about the host."""

import subprocess
from collections.abc import Sequence
from typing import Any


def printed(command: Sequence[str], *, limit_s: float, may_fail: bool = True, **options: Any) -> str | None:
    """Return what a command prints; None where it cannot be run, does not end in time, or fails and may not.

    `options` are more arguments of subprocess.run, such as `user` and `env`.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, **options
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return str(done.stdout) if may_fail or done.returncode == 0 else None

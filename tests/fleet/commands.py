"""Runs programs of this machine, with their output in the error."""

import subprocess
from collections.abc import Sequence


def command(*words: str, stdin: str | None = None, timeout_s: float = 60, check: bool = True) -> str:
    """Run a program and return what it printed. Raises RuntimeError when it fails."""
    done = subprocess.run(
        words,
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{_line(words)} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _line(words: Sequence[str]) -> str:
    text = " ".join(words)
    return text if len(text) < 300 else text[:297] + "..."

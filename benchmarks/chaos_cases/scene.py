"""What a fault finds when it is made: the host, the run, and the numbers that were drawn for it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.chaos_cases.subject import Subject


class NotMadeError(Exception):
    """A fault could not be made at this moment."""


@dataclass(frozen=True)
class Scene:
    """The present of a run."""

    subject: Subject
    process: subprocess.Popen[bytes]
    """The controller."""
    start_another: Callable[[], tuple[int, str]]
    """Runs the same command with another folder for its runs, and returns its exit code and what it said of the host."""
    cache: Path
    random: Random
    lasts_s: float

"""Time limit of a run, for callers that wait for it."""

from __future__ import annotations

from verify.records import LEVELS, Level
from verify.runner.execution import OVERHEAD_S
from verify.runner.registry import all_checks

AT_ONCE = 2
"""Number of checks that run in parallel on the smallest host."""


def run_limit_s(level: Level, devices: int) -> float:
    """Return the seconds after which a run has ended even if every check uses its whole deadline."""
    at_once = alone = longest = 0.0
    for check in all_checks():
        if LEVELS.index(check.level) <= LEVELS.index(level):
            seconds = check.deadline_s * (max(devices, 1) if check.each_device else 1)
            longest = max(longest, check.deadline_s)
            alone += seconds if check.exclusive else 0.0
            at_once += 0.0 if check.exclusive else seconds
    return OVERHEAD_S + at_once / AT_ONCE + longest + alone

"""How long a run may take, from the work that it is: for whoever waits for it elsewhere."""

from __future__ import annotations

from verify.records import LEVELS, Level
from verify.registry import all_checks
from verify.runner import OVERHEAD_S

AT_ONCE = 2
"""So many checks run beside one another on the smallest host."""


def run_limit_s(level: Level, devices: int) -> float:
    """Seconds by which a run has ended on a host with so many devices, though every check takes all the time it may."""
    at_once = alone = longest = 0.0
    for check in all_checks():
        if LEVELS.index(check.level) <= LEVELS.index(level):
            seconds = check.deadline_s * (max(devices, 1) if check.each_device else 1)
            longest = max(longest, check.deadline_s)
            alone += seconds if check.exclusive else 0.0
            at_once += 0.0 if check.exclusive else seconds
    return OVERHEAD_S + at_once / AT_ONCE + longest + alone

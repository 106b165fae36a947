"""Steps of a rollout: which hosts change together."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from provision.core.errors import UsageError

DEFAULT_STEPS = "10,25,50,100"
STEP = re.compile(r"(\d+)(?::(\d+)([smh]))?", re.ASCII)
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
STAGING = "staging"
"""Group of the inventory whose hosts change before the first step."""


def parse_steps(text: str) -> dict[int, float | None]:
    """Return the percentages of `--steps` (`25:1h,50:30m,100`) in their order, each with the seconds that its step lasts at least.

    Raises UsageError where they are no whole numbers that rise to 100, or a time is none.
    """
    hint = f"write rising percentages that end with 100: --steps {DEFAULT_STEPS}, or with times: --steps 25:1h,100:30m"
    parts = [STEP.fullmatch(part) for part in text.split(",")]
    found = {int(part[1]): int(part[2]) * UNITS_S[part[3]] if part[2] else None for part in parts if part}
    if len(found) < len(parts):
        raise UsageError(
            f"`--steps {text}` is not a list of different whole numbers, each alone or with a time", hint=hint
        )
    steps = tuple(found)
    if steps[0] < 1 or steps[-1] != 100 or any(one >= two for one, two in pairwise(steps)):
        raise UsageError(f"`--steps {text}` does not rise from at least 1 to 100", hint=hint)
    return found


def assign(
    names: Sequence[str], steps: Sequence[int], staging: Sequence[str] = (), *, first_alone: bool = False
) -> dict[str, int]:
    """Return the index of the step that changes each host.

    A step of 10 % of 25 hosts has ended when 3 hosts serve the new release: shares are rounded up, so the first step
    has a host in any case. Steps that add no host have none. The step of 0 % is that of group `staging`, and with `first_alone` of the first
    host, which counts for the steps after it.
    """
    found = {name: 0 for name in names if name in staging}
    others = [name for name in names if name not in staging]
    done = 0
    for index, percent in enumerate(steps):
        until = math.ceil(len(others) * percent / 100)
        found |= dict.fromkeys(others[done:until], index)
        done = until
    return found | dict.fromkeys(others[:1] if first_alone else (), 0)


def batches(names: Sequence[str], *, serving: int, min_serving: int) -> Iterator[list[str]]:
    """Yield hosts that change at the same time, so that of all that serve, these included, enough others do meanwhile."""
    size = max(1, min(len(names), serving - min_serving))
    for start in range(0, len(names), size):
        yield list(names[start : start + size])


def require_capacity(*, serving: int, min_serving: int) -> None:
    """Raise UsageError where all hosts must serve at any time, so that none may be out of traffic."""
    if min_serving < 0 or (min_serving and serving - min_serving < 1):
        raise UsageError(
            f"`--min-serving {min_serving}` leaves no host to change: {serving} serve",
            hint=f"give at most {max(serving - 1, 0)}",
        )

"""How surely a rollout's gate decides: simulated rollouts of healthy and of bad releases.

    .venv/bin/python -m benchmarks.serving

Nothing is timed and nothing random is left to the machine, so the result is always kept.
"""

from __future__ import annotations

import sys

from benchmarks.machine import header, publish
from benchmarks.rollout_simulation import simulate

ROLLOUTS, STEPS = 1000, 4
HEALTHY, BAD, BORDER = 0.0005, 0.01, 0.001
WRONGLY_STOPPED, LET_THROUGH = 1, 10
"""Aims, of so many rollouts."""


def main() -> int:
    result = header("serving")
    stopped = ROLLOUTS - simulate(HEALTHY, rollouts=ROLLOUTS, steps=STEPS, seed=1)
    through = simulate(BAD, rollouts=ROLLOUTS, steps=STEPS, seed=2)
    result["rollout_gates"] = {
        "rollouts": ROLLOUTS,
        "steps": STEPS,
        "healthy": {"failed_requests": HEALTHY, "stopped_wrongly": stopped},
        "at_the_limit": {
            "failed_requests": BORDER,
            "stopped_wrongly": ROLLOUTS - simulate(BORDER, rollouts=ROLLOUTS, steps=STEPS, seed=3),
        },
        "bad": {
            "failed_requests": BAD,
            "let_through": through,
            "let_through_first_step_of_5000": simulate(BAD, rollouts=5000, steps=1, seed=4),
        },
    }
    met = stopped <= WRONGLY_STOPPED and through <= LET_THROUGH
    result["aim"] = {"stopped_wrongly": WRONGLY_STOPPED, "let_through": LET_THROUGH, "met": met}
    publish(result, "serving", always=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

"""How surely a rollout's gate decides, and how soon a lost host gets no more requests.

    .venv/bin/python -m benchmarks.serving

Rollouts of healthy and of bad releases are simulated: nothing is timed and nothing random is left to the machine, so that result is
always kept. Hosts are lost behind a real gateway; those seconds are kept from a quiet machine alone. Needs root and haproxy.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.host_loss import measure
from benchmarks.machine import header, publish
from benchmarks.rollout_simulation import simulate

ROLLOUTS, STEPS = 1000, 4
HEALTHY, BAD, BORDER = 0.0005, 0.01, 0.001
WRONGLY_STOPPED, LET_THROUGH = 1, 10
"""Aims, of so many rollouts."""


def main() -> int:
    # Both before the simulations: their own load would count as that of a busy machine.
    result, lost = header("serving"), header("host-loss")
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
    with tempfile.TemporaryDirectory() as folder:
        lost["hosts"] = measure(Path(folder))
    publish(lost, "host-loss")
    return 0 if met and all(one["met"] for one in lost["hosts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())

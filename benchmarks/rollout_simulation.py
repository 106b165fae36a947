"""Simulated rollouts: how many of a known share of failed requests pass all gates."""

from __future__ import annotations

import random

from provision.features.rollout.gate import failed_requests, thresholds


def passes(draw: random.Random, share: float) -> bool:
    """Return whether one gate lets a release through that fails this share of its requests."""
    batch, requests, failed = thresholds()["sampling"]["requests"], 0, 0
    while True:
        requests += batch
        failed += sum(draw.random() < share for _ in range(batch))
        verdict = failed_requests(requests, failed)
        if verdict != "undecided":
            return verdict == "go on"


def simulate(share: float, *, rollouts: int, steps: int, seed: int) -> int:
    """Return how many rollouts reach their end.

    Args:
        share: True share of failed requests of the new release.
        rollouts: Number of simulated rollouts.
        steps: Number of gates of each rollout.
        seed: Seed of the random numbers.
    """
    draw = random.Random(seed)
    return sum(all(passes(draw, share) for _ in range(steps)) for _ in range(rollouts))

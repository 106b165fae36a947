"""The decision after a step of a rollout: from counted requests and measured times, by statistical tests with stated errors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from provision.core.tables import own_table

Verdict = Literal["go on", "roll back", "undecided"]


def thresholds() -> dict[str, Any]:
    """Return the limits of the tests, from thresholds.toml."""
    return own_table(Path(__file__).with_name("thresholds.toml"))


@dataclass(frozen=True)
class Observed:
    """What was seen of one release since a step began."""

    requests: int = 0
    failed: int = 0
    first_token_s: tuple[float, ...] = ()
    """Seconds to the first token of synthetic requests."""

    def plus(self, other: Observed) -> Observed:
        """Return both together."""
        return Observed(
            self.requests + other.requests, self.failed + other.failed, self.first_token_s + other.first_token_s
        )

    @property
    def median_s(self) -> float | None:
        """Return the median of the times; None where there are none."""
        return statistics.median(self.first_token_s) if self.first_token_s else None


def failed_requests(requests: int, failed: int) -> Verdict:
    """Decide by Wald's sequential test whether a release fails too many requests.

    The test may be repeated after every request: its errors hold for the whole sequence.

    Args:
        requests: Requests so far.
        failed: How many of them failed.
    """
    limits = thresholds()["failed_requests"]
    healthy, bad = limits["healthy"], limits["bad"]
    ratio = failed * math.log(bad / healthy) + (requests - failed) * math.log((1 - bad) / (1 - healthy))
    if ratio >= math.log((1 - limits["miss"]) / limits["false_alarm"]):
        return "roll back"
    if ratio <= math.log(limits["miss"] / (1 - limits["false_alarm"])):
        return "go on"
    return "roll back" if requests >= limits["most_requests"] else "undecided"


def is_slower(new: Sequence[float], old: Sequence[float]) -> bool:
    """Return whether first tokens come later than the stated factor allows; False with too few samples.

    Args:
        new: Seconds to the first token under the new release.
        old: The same under the old one.
    """
    limits = thresholds()["first_token"]
    if min(len(new), len(old)) < limits["least_samples"]:
        return False
    allowed = [max(limits["factor"] * value, value + limits["floor_s"]) for value in old]
    return _rank_test(new, allowed) < float(limits["false_alarm"])


def _rank_test(larger: Sequence[float], smaller: Sequence[float]) -> float:
    """Return the p-value of "not larger", by the normal approximation of the rank sum, corrected for ties."""
    values = sorted([(value, True) for value in larger] + [(value, False) for value in smaller])
    ranks, ties, start = 0.0, 0.0, 0
    while start < len(values):
        end = start
        while end < len(values) and values[end][0] == values[start][0]:
            end += 1
        ranks += (start + end + 1) / 2 * sum(is_first for _, is_first in values[start:end])
        ties += (end - start) ** 3 - (end - start)
        start = end
    one, two = len(larger), len(smaller)
    both = one + two
    surplus = ranks - one * (both + 1) / 2
    variance = one * two / 12 * (both + 1 - ties / (both * (both - 1)))
    return 1 - statistics.NormalDist().cdf(surplus / math.sqrt(variance)) if variance > 0 else 1.0


def decide(new: Observed, old: Observed | None) -> tuple[Verdict, str]:
    """Return the verdict on a step, and the sentence that explains it with its numbers.

    Args:
        new: The hosts of the new release.
        old: A host of the old one, observed at the same time; None where none is left.
    """
    limits = thresholds()
    counted = f"{new.failed} of {new.requests} requests failed"
    verdict = failed_requests(new.requests, new.failed)
    if verdict == "undecided":
        return verdict, counted
    if verdict == "roll back":
        healthy = limits["failed_requests"]["healthy"]
        return verdict, f"{counted}; a healthy release fails at most {healthy:.1%}"
    times = f"first token after {new.median_s * 1000:.0f} ms" if new.median_s is not None else ""
    if old is not None and old.median_s is not None and new.median_s is not None:
        times += f", {old.median_s * 1000:.0f} ms with the old release"
        if is_slower(new.first_token_s, old.first_token_s):
            return "roll back", f"{times}: more than {limits['first_token']['factor']:g} times as long"
    return "go on", f"{counted}; {times}" if times else counted

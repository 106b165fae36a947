"""The decision after a step of a rollout: from counted requests and measured times, by statistical tests with stated errors, and from
greedy answers to the same texts, compared token by token.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from provision.core.tables import own_table

Verdict = Literal["go on", "roll back", "undecided"]
Measure = Literal["first_token", "inter_token"]


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
    inter_token_s: tuple[float, ...] = ()
    """Mean seconds between the tokens of each."""

    def plus(self, other: Observed) -> Observed:
        """Return both together."""
        return Observed(
            self.requests + other.requests,
            self.failed + other.failed,
            self.first_token_s + other.first_token_s,
            self.inter_token_s + other.inter_token_s,
        )

    def times(self, measure: Measure) -> tuple[float, ...]:
        """Return the times of a measure, in seconds."""
        return self.first_token_s if measure == "first_token" else self.inter_token_s

    def median_s(self, measure: Measure) -> float | None:
        """Return the median of a measure; None where there are no times."""
        times = self.times(measure)
        return statistics.median(times) if times else None


def failed_requests(requests: int, failed: int) -> Verdict:
    """Decide by Wald's sequential test whether a release fails too many requests.

    The test may be repeated after every request: its errors hold for the whole sequence.
    """
    limits = thresholds()["failed_requests"]
    healthy, bad = limits["healthy"], limits["bad"]
    ratio = failed * math.log(bad / healthy) + (requests - failed) * math.log((1 - bad) / (1 - healthy))
    if ratio >= math.log((1 - limits["miss"]) / limits["false_alarm"]):
        return "roll back"
    if ratio <= math.log(limits["miss"] / (1 - limits["false_alarm"])):
        return "go on"
    return "roll back" if requests >= limits["most_requests"] else "undecided"


def is_slower(new: Sequence[float], old: Sequence[float], measure: Measure) -> bool:
    """Return whether tokens come later, in seconds, than the stated factor allows; False with too few samples."""
    limits = thresholds()[measure]
    return bool(
        min(len(new), len(old)) >= limits["least_samples"] and _slower_p(new, old, measure) < limits["false_alarm"]
    )


def _slower_p(new: Sequence[float], old: Sequence[float], measure: Measure) -> float:
    """Return the p-value of "not slower than the stated factor allows"."""
    return _rank_test(new, [_allowed(value, measure) for value in old])


def _allowed(old: float, measure: Measure) -> float:
    """Return the longest time that is still allowed, in seconds, where the old release takes so long."""
    limits = thresholds()[measure]
    return float(max(limits["factor"] * old, old + limits["floor_s"]))


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


def decide(new: Observed, old: Observed | None, clients: Observed | None = None) -> tuple[Verdict, str]:
    """Return the verdict on a step, and the sentence that explains it with its numbers.

    Args:
        old: A host of the old one, observed at the same time; None where none is left.
        clients: Requests of clients to the hosts of the new release. They may fail where synthetic ones do not; they can only stop a step.
    """
    counted = f"{new.failed} of {new.requests} requests failed"
    verdict = failed_requests(new.requests, new.failed)
    if verdict != "roll back" and clients and failed_requests(clients.requests, clients.failed) == "roll back":
        verdict, counted = "roll back", f"{clients.failed} of {clients.requests} requests of clients failed"
    if verdict == "undecided":
        return verdict, counted
    if verdict == "roll back":
        healthy = thresholds()["failed_requests"]["healthy"]
        return verdict, f"{counted}; a healthy release fails at most {healthy:.1%}"
    for measure in _WORDS:
        timed = min(len(new.times(measure)), len(old.times(measure))) if old is not None else 0
        if 0 < timed < (least := thresholds()[measure]["least_samples"]):
            return "undecided", f"{counted}; {timed} of {least} synthetic requests were timed"
    said = [counted]
    for measure in _WORDS:
        if (median_s := new.median_s(measure)) is not None:
            verdict, text = _compare(measure, median_s, new, old)
            if verdict == "roll back":
                return verdict, text
            said.append(text)
    return "go on", "; ".join(said)


_WORDS: dict[Measure, str] = {"first_token": "first token after {:.0f} ms", "inter_token": "{:.1f} ms between tokens"}


def _compare(measure: Measure, median_s: float, new: Observed, old: Observed | None) -> tuple[Verdict, str]:
    """Return what the times of a measure say of a release with this median."""
    limits = thresholds()[measure]
    text = _WORDS[measure].format(median_s * 1000)
    before_s = old.median_s(measure) if old is not None else None
    if old is None or before_s is None:
        return "go on", text
    text += f", {before_s * 1000:.{0 if measure == 'first_token' else 1}f} ms with the old release"
    beyond, limit = f"{text}: more than {limits['factor']:g} times as long", f"{limits['false_alarm']:g}"
    if is_slower(new.times(measure), old.times(measure), measure):
        return "roll back", f"{beyond}, and significant (rank test, p < {limit}), so the release goes back"
    if median_s <= _allowed(before_s, measure):
        return "go on", text
    p = _slower_p(new.times(measure), old.times(measure), measure)
    return "go on", f"{beyond}, but not significant (rank test, p = {p:.2g}, limit {limit}), so it stops nothing"


@dataclass
class Comparison:
    """How many answers were compared, and how many of them differ."""

    answers: int = 0
    near_ties: int = 0
    """They differ, and only after two tokens that rounding can exchange."""
    differing: int = 0
    first: str | None = None
    """The first difference beyond rounding, in words."""
    left_out: int = 0
    """Texts that were not compared, since one of the two releases has not answered them."""
    why: str | None = None
    """Of the first of these: the reason."""

    def add(self, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        """Compare the answers of two hosts that serve the same model.

        Up to the first token that differs both computed the same, so their log probabilities may differ by rounding alone. After
        it they continue different texts, and nothing more can be said.

        Args:
            new: What `ready.pyz` sends of the new release. `answers` have `tokens`, `logprobs`, and for each the token in second
                place (`runners_up`) with its distance in nats (`leads`); None stands for an answer that failed. `left_out` has why, by
                the number of the text.
            old: That of the old release to the same texts.
        """
        for number, (ours, theirs) in enumerate(zip(new["answers"], old["answers"], strict=False), start=1):
            if ours is not None and theirs is not None:
                self.answers += 1
                self._add(f"text {number}", ours, theirs)
                continue
            self.left_out += 1
            reason = (new if ours is None else old)["left_out"][str(number)]
            # Both refuse a text that is too long for the model; a reason of one release alone may be a fault of it.
            of = "" if ours is theirs else f" with the {'new' if ours is None else 'old'} release"
            self.why = self.why or f"text {number}{of}: {reason}"

    def _add(self, text: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        """Count how two answers to one text differ."""
        rounding = thresholds()["answers"]["rounding"]
        for place, (token, before) in enumerate(zip(new["tokens"], old["tokens"], strict=False)):
            moved = abs(new["logprobs"][place] - old["logprobs"][place])
            if token == before and moved <= rounding:
                continue
            if token == before:
                what = f"has another log probability by {moved:.2f} nats"
            elif token != old["runners_up"][place] or old["leads"][place] > rounding:
                what = f"is {token} instead of {before}, which led by {old['leads'][place]:.2f} nats"
            else:
                self.near_ties += 1
                return
            self.differing += 1
            self.first = self.first or f"{text}, token {place + 1} {what}"
            return

    @property
    def is_bad(self) -> bool:
        """Return whether so many differ that the release has to go back."""
        limits = thresholds()["answers"]
        return bool(self.answers >= limits["least"] and self.differing >= limits["roll_back"] * self.answers)

    @property
    def text(self) -> str | None:
        """Return what was found; None where nothing was to be compared."""
        if not self.answers:
            found = "no greedy answers were compared" if self.left_out else None
        elif self.differing:
            found = (
                f"{self.differing} of {self.answers} greedy answers differ from those of the old release: {self.first}"
            )
        else:
            ties = f", {self.near_ties} after a near tie" if self.near_ties else ""
            equal = f"{self.answers - self.near_ties} of {self.answers}"
            found = f"{equal} greedy answers equal those of the old release{ties}"
        if not self.left_out:
            return found
        were = "was" if self.left_out == 1 else "were"
        return f"{found}; {self.left_out} of {self.answers + self.left_out} texts {were} left out: {self.why}"

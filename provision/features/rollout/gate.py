"""The decision after a step of a rollout: from counted requests and measured times, by statistical tests with stated errors, and from
greedy answers to the same texts, compared token by token.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
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

    def median_s(self, measure: Measure) -> float | None:
        """Return the median of a measure; None where there are no times."""
        times = self.first_token_s if measure == "first_token" else self.inter_token_s
        return statistics.median(times) if times else None


Round = tuple[Observed, Observed]
"""What one round has shown of the new release, and of the old one at the same time."""


def failed_requests(requests: int, failed: int) -> Verdict:
    """Decide whether a release fails too many requests."""
    limits = thresholds()["failed_requests"]
    verdict = _sequential_test(requests, failed, limits)
    return "roll back" if verdict == "undecided" and requests >= limits["most_requests"] else verdict


def _sequential_test(trials: int, bad: int, limits: Mapping[str, float]) -> Verdict:
    """Decide by Wald's sequential probability ratio test whether the share of bad trials is that of a healthy release or of a bad one.

    The test may be repeated after every trial: its errors hold for the whole sequence.
    """
    healthy_share, bad_share = limits["healthy"], limits["bad"]
    ratio = bad * math.log(bad_share / healthy_share) + (trials - bad) * math.log((1 - bad_share) / (1 - healthy_share))
    if ratio >= math.log((1 - limits["miss"]) / limits["false_alarm"]):
        return "roll back"
    return "go on" if ratio <= math.log(limits["miss"] / (1 - limits["false_alarm"])) else "undecided"


_WORDS: dict[Measure, tuple[str, str]] = {
    "first_token": ("first token after {:.0f} ms", ", {:.0f} ms with the old release"),
    "inter_token": ("{:.1f} ms between tokens", ", {:.1f} ms with the old release"),
}


def late_rounds(rounds: Sequence[Round], measure: Measure) -> tuple[Verdict, str]:
    """Decide whether tokens come later than the stated factor allows, and say in how many rounds they do.

    The unit of the test is the round, not the request: what else runs on a host delays all requests of the same seconds. A round
    is late if the median of the new release exceeds what that of the old one allows. One in which the old release answered no request
    is not; one in which it was not asked counts for nothing.

    Args:
        rounds: An empty sequence passes.
    """
    limits, test = thresholds()[measure], thresholds()["rounds"]
    medians = [(new.median_s(measure), old.median_s(measure)) for new, old in rounds if old.requests]
    timed = [(now_s, math.inf if before_s is None else before_s) for now_s, before_s in medians if now_s is not None]
    late = sum(now_s > max(limits["factor"] * before_s, before_s + limits["floor_s"]) for now_s, before_s in timed)
    verdict = _sequential_test(len(timed), late, test)
    text = f"more than {limits['factor']:g} times as long in {late} of {len(timed)} rounds" if late else ""
    if verdict == "roll back":
        return verdict, f"{text}, so the release goes back"
    return ("undecided" if verdict == "undecided" and 0 < len(rounds) < test["most_rounds"] else "go on"), text


def decide(new: Observed, rounds: Sequence[Round], clients: Observed | None = None) -> tuple[Verdict, str]:
    """Return the verdict on a step, and the sentence that explains it with its numbers.

    Args:
        new: All that was seen of the new release.
        rounds: Those in which it could be compared with the old release; none where no equal host of that is left.
        clients: Requests of clients to the hosts of the new release. They may fail where synthetic ones do not; they can only stop a step.
    """
    counted = f"{new.failed} of {new.requests} requests failed"
    verdict = failed_requests(new.requests, new.failed)
    if verdict != "roll back" and clients and failed_requests(clients.requests, clients.failed) == "roll back":
        verdict, counted = "roll back", f"{clients.failed} of {clients.requests} requests of clients failed"
    if verdict == "roll back":
        healthy = thresholds()["failed_requests"]["healthy"]
        return verdict, f"{counted}; a healthy release fails at most {healthy:.1%}"
    said = [counted]
    compared, old = new, Observed()
    if rounds:
        compared, old = (reduce(Observed.plus, seen) for seen in zip(*rounds, strict=True))
    for measure, (now, before) in _WORDS.items():
        found, late = late_rounds(rounds, measure)
        median_s, before_s = compared.median_s(measure), old.median_s(measure)
        if median_s is None:
            continue
        text = now.format(median_s * 1000) + (before.format(before_s * 1000) if before_s is not None else "")
        text += f": {late}" if late else ""
        if found == "roll back":
            return found, text
        verdict = found if found == "undecided" else verdict
        said.append(text)
    return verdict, "; ".join(said)


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

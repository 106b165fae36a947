"""From lines that matched to causes in order. Pure: the same hits and facts give the same findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verify.doctor.catalog import SYMPTOM_WEIGHT, Cause, Counter, FactRule, Role, Signature
from verify.doctor.evidence import Hit
from verify.doctor.facts import holds
from verify.doctor.failure import Tone, tone

FINDING_AT = 0.3
"""Below this confidence nothing is said: it would be a guess."""
SURE_AT = 0.75
"""From here on the doctor is sure; below it, it says `likely` or `possible`."""
LIKELY_AT = 0.5
STRONG_AT = 0.5
"""A cause of this confidence makes what is seen after it its consequence."""
LATER = 0.8
"""Kept of a cause whose first line stands later than that of a strong other one."""
BEATEN = 0.4
"""Kept of a cause that another one, found as well, explains."""
BEATS_FROM = 0.6
"""A cause explains another when it is strong, and at least this share as likely as that one: a guess explains nothing."""
SYMPTOMS_ALONE = 0.6
"""At most, when none of the lines is the cause itself."""
GUESS_BYTES = 6000
"""Longer texts are logs: their own lines tell, and their words are those of everything that went well."""
CEILING = 0.99
EQUAL = 0.005
"""Confidences that differ by less are called equal."""


@dataclass(frozen=True)
class Match:
    """A signature and where it matched."""

    signature: Signature
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Against:
    """A counter-signature and where it matched."""

    counter: Counter
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Evidence:
    """All that was seen of one cause."""

    cause: Cause
    matches: tuple[Match, ...]
    against: tuple[Against, ...]
    facts: tuple[FactRule, ...]

    @property
    def confidence(self) -> float:
        """Of this cause alone, without regard to others."""
        doubt = 1.0
        for match in self.matches:
            doubt *= 1 - match.signature.weight
        confidence = 1 - doubt
        if not any(match.signature.role == "cause" for match in self.matches):
            confidence = min(confidence, SYMPTOMS_ALONE)
        for rule in self.facts:
            confidence = _moved(confidence, rule.effect)
        for against in self.against:
            confidence *= 1 - against.counter.weight
        return min(confidence, CEILING)

    @property
    def is_telling(self) -> bool:
        """Whether it holds whatever program it is about: a line makes it sure by itself."""
        own = (match.signature for match in self.matches)
        return self.cause.any_program or any(each.role == "cause" and each.weight >= SURE_AT for each in own)

    @property
    def first(self) -> Hit:
        """The earliest line."""
        return min(hit for match in self.matches for hit in match.hits)

    @property
    def first_cause(self) -> Hit | None:
        """The earliest line that is the cause itself and no symptom."""
        return min(
            (hit for match in self.matches if match.signature.role == "cause" for hit in match.hits), default=None
        )


@dataclass(frozen=True)
class Finding:
    """A cause with its final confidence, and why it stands where it stands."""

    evidence: Evidence
    confidence: float
    why: str
    guessed: bool = False
    """Whether the words of the text alone suggest it."""

    @property
    def cause(self) -> Cause:
        return self.evidence.cause

    @property
    def word(self) -> str:
        """The confidence in a word."""
        return "sure" if self.confidence >= SURE_AT else "likely" if self.confidence >= LIKELY_AT else "possible"


def collect(
    cause: Cause, hits: Sequence[Sequence[Hit]], facts: Mapping[str, Any], *, reports: Role | None = "cause"
) -> Evidence | None:
    """The evidence of one cause; null without a signature. `hits`: of its signatures, then of its counters.

    `reports`: what lines are by which programs only report what they do or were told to do; null when these alone are no evidence.
    """
    split = len(cause.signatures)
    matches = tuple(
        Match(_weighed(signature, lines, reports), tuple(lines))
        for signature, lines in zip(cause.signatures, hits[:split], strict=True)
        if lines
    )
    if not matches or (reports is None and all(_is_report(hit) for match in matches for hit in match.hits)):
        return None
    against = tuple(
        Against(counter, tuple(lines)) for counter, lines in zip(cause.counters, hits[split:], strict=True) if lines
    )
    return Evidence(cause, matches, against, tuple(rule for rule in cause.facts if holds(rule, facts)))


def _weighed(signature: Signature, lines: Sequence[Hit], reports: Role | None) -> Signature:
    """What a signature tells by these lines: where all of them are reports, it is a symptom at most."""
    if reports != "cause" and all(_is_report(hit) for hit in lines):
        return replace(signature, weight=min(signature.weight, SYMPTOM_WEIGHT), role="symptom")
    return signature


def _is_report(hit: Hit) -> bool:
    return tone(hit.text) is Tone.REPORTS


def rank(candidates: Sequence[Evidence]) -> tuple[Finding, ...]:
    """The findings, most likely first; ties go to the earliest line, then to the cause's name.

    Of two causes that explain each other, the one that is more likely by itself does.
    """
    alone = {candidate.cause.id: candidate.confidence for candidate in candidates}
    possible = [candidate for candidate in candidates if alone[candidate.cause.id] >= FINDING_AT]
    possible.sort(key=lambda candidate: (-alone[candidate.cause.id], candidate.first, candidate.cause.id))
    beaten = {
        other.cause.id
        for place, other in enumerate(possible)
        for number, one in enumerate(possible)
        if _outweighs(one, other) and (number < place or _explains(other, one) is None)
    }
    final = {}
    for candidate in possible:
        confidence = alone[candidate.cause.id]
        if candidate.cause.id in beaten:
            confidence *= BEATEN
        elif any(_precedes(other, candidate) for other in possible if other.cause.id not in beaten):
            confidence *= LATER
        final[candidate.cause.id] = confidence
    order = [candidate for candidate in possible if final[candidate.cause.id] >= FINDING_AT]
    order.sort(key=lambda candidate: (-round(final[candidate.cause.id], 6), candidate.first, candidate.cause.id))
    return tuple(
        Finding(candidate, round(final[candidate.cause.id], 3), _why(candidate, following, final))
        for candidate, following in zip(order, [*order[1:], None], strict=False)
    )


def _moved(confidence: float, effect: float) -> float:
    return 1 - (1 - confidence) * (1 - effect) if effect > 0 else confidence * (1 + effect)


def _explains(one: Evidence, other: Evidence) -> str | None:
    """Why another cause is no cause of its own when this one is there; null when it may be."""
    if other.cause.harmless and not one.cause.harmless:
        return "the other is a complaint that breaks nothing"
    return next((beats.why for beats in one.cause.beats if beats.cause == other.cause.id), None)


def _outweighs(one: Evidence, other: Evidence) -> bool:
    """Whether one explains the other and is likely enough to be believed."""
    strong = max(STRONG_AT, BEATS_FROM * other.confidence)
    return one.confidence >= strong and _explains(one, other) is not None


def _precedes(one: Evidence, other: Evidence) -> bool:
    """Whether one is strong and its first line comes earlier than the other's."""
    if one is other or one.confidence < STRONG_AT or _explains(other, one) is not None:
        return False
    begin, later = one.first_cause, other.first_cause or other.first
    return begin is not None and (begin.source, begin.line) < (later.source, later.line)


def _why(one: Evidence, other: Evidence | None, final: Mapping[str, float]) -> str:
    """Why one stands before the next."""
    return f"before {other.cause.id}: {_reason(one, other, final)}" if other else "no other cause shows as well"


def _reason(one: Evidence, other: Evidence, final: Mapping[str, float]) -> str:
    explained = _explains(one, other)
    if explained is not None and _outweighs(one, other):
        return explained
    if _precedes(one, other):
        begin, later = one.first_cause or one.first, other.first_cause or other.first
        return f"it shows first, on line {begin.line}, the other on line {later.line}"
    if final[one.cause.id] - final[other.cause.id] < EQUAL:
        return "equally likely, but its line comes first"
    doubts = [against.counter.why for against in other.against] + [rule.why for rule in other.facts if rule.effect < 0]
    if doubts:
        return f"against the other speaks: {doubts[0]}"
    strongest, weaker = _strongest(one), _strongest(other)
    if strongest > weaker:
        return f"its lines are more telling ({strongest:.2f} against {weaker:.2f} by themselves)"
    return f"more of its signs are there ({len(one.matches)} against {len(other.matches)})"


def _strongest(evidence: Evidence) -> float:
    return max(match.signature.weight for match in evidence.matches)

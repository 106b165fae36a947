"""Confidence and order of causes, from the lines that matched. The same hits and facts give the same findings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verify.doctor.catalog import SYMPTOM_WEIGHT, Cause, FactRule, Role, Signature
from verify.doctor.facts import holds
from verify.doctor.failure_detection import Severity, severity_of
from verify.doctor.scanner import Hit

FINDING_AT = 0.3
"""Lowest confidence of a finding."""
LIKELY_AT = 0.5
SURE_AT = 0.75
STRONG_AT = 0.5
"""A cause with this confidence makes later causes its consequences."""
CONSEQUENCE_FACTOR = 0.8
"""Multiplies the confidence of a cause whose first line is later than that of a strong cause."""
OVERRIDDEN_FACTOR = 0.4
"""Multiplies the confidence of a cause that another finding overrides."""
OVERRIDE_RATIO = 0.6
"""A cause overrides another only with at least this share of the other's confidence."""
SYMPTOMS_ONLY = 0.6
"""Maximum confidence without a line whose role is `cause`."""
GUESS_BYTES = 6000
"""Maximum size of a text that the text classifier sees: the words of a longer log are mostly those of success."""
MAX_CONFIDENCE = 0.99
EQUAL = 0.005
"""Confidences that differ by less count as equal."""


@dataclass(frozen=True)
class SignatureMatch:
    """A signature, or a counter, and the lines that match it."""

    signature: Signature
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Evidence:
    """All lines and facts that bear on one cause."""

    cause: Cause
    matches: tuple[SignatureMatch, ...]
    against: tuple[SignatureMatch, ...]
    facts: tuple[FactRule, ...]

    @property
    def confidence(self) -> float:
        """Return the confidence of this cause without regard to others."""
        confidence = 1 - math.prod(1 - match.signature.weight for match in self.matches)
        if not any(match.signature.role == "cause" for match in self.matches):
            confidence = min(confidence, SYMPTOMS_ONLY)
        for rule in self.facts:
            effect = rule.effect
            confidence = 1 - (1 - confidence) * (1 - effect) if effect > 0 else confidence * (1 + effect)
        for against in self.against:
            confidence *= 1 - against.signature.weight
        return min(confidence, MAX_CONFIDENCE)

    @property
    def holds_for_any_program(self) -> bool:
        """Return whether the cause applies to a log about anything, because one line alone makes it sure."""
        own = (match.signature for match in self.matches)
        return self.cause.any_program or any(each.role == "cause" and each.weight >= SURE_AT for each in own)

    @property
    def first(self) -> Hit:
        """Return the earliest line."""
        return min(hit for match in self.matches for hit in match.hits)

    @property
    def first_cause(self) -> Hit | None:
        """Return the earliest line that is no symptom."""
        causes = (match for match in self.matches if match.signature.role == "cause")
        return min((hit for match in causes for hit in match.hits), default=None)


@dataclass(frozen=True)
class Finding:
    """A cause with its final confidence, and why it ranks before the next."""

    evidence: Evidence
    confidence: float
    why: str

    @property
    def cause(self) -> Cause:
        return self.evidence.cause

    @property
    def label(self) -> str:
        """Return the confidence as a word."""
        return "sure" if self.confidence >= SURE_AT else "likely" if self.confidence >= LIKELY_AT else "possible"


def collect_evidence(
    cause: Cause, hits: Sequence[Sequence[Hit]], facts: Mapping[str, Any], *, info_role: Role | None = "cause"
) -> Evidence | None:
    """Collect the evidence for one cause; None if no signature matched.

    Args:
        hits: The hits of its signatures, then of its counters.
        facts: What is known of the host.
        info_role: The highest role of lines with the severity INFO; None if they alone are no evidence.
    """
    split = len(cause.signatures)
    matches = tuple(
        SignatureMatch(_lower_to_symptom(signature, lines, info_role), tuple(lines))
        for signature, lines in zip(cause.signatures, hits[:split], strict=True)
        if lines
    )
    if not matches or (info_role is None and all(_is_info(hit) for match in matches for hit in match.hits)):
        return None
    counters = zip(cause.counters, hits[split:], strict=True)
    against = tuple(SignatureMatch(counter, tuple(lines)) for counter, lines in counters if lines)
    return Evidence(cause, matches, against, tuple(rule for rule in cause.facts if holds(rule, facts)))


def _lower_to_symptom(signature: Signature, lines: Sequence[Hit], info_role: Role | None) -> Signature:
    if info_role != "cause" and all(_is_info(hit) for hit in lines):
        return replace(signature, weight=min(signature.weight, SYMPTOM_WEIGHT), role="symptom")
    return signature


def _is_info(hit: Hit) -> bool:
    return severity_of(hit.text) is Severity.INFO


def rank(candidates: Sequence[Evidence]) -> tuple[Finding, ...]:
    """Return the findings, most likely first; ties are broken by the earliest line, then by the cause's id.

    Of two causes that override each other, the more likely one does.
    """
    alone = {candidate.cause.id: candidate.confidence for candidate in candidates}
    possible = [candidate for candidate in candidates if alone[candidate.cause.id] >= FINDING_AT]
    possible.sort(key=lambda candidate: (-alone[candidate.cause.id], candidate.first, candidate.cause.id))
    overridden = {
        other.cause.id
        for place, other in enumerate(possible)
        for number, one in enumerate(possible)
        if _overrides(one, other) and (number < place or _override_reason(other, one) is None)
    }
    final = {}
    for candidate in possible:
        confidence = alone[candidate.cause.id]
        if candidate.cause.id in overridden:
            confidence *= OVERRIDDEN_FACTOR
        elif any(_precedes(other, candidate) for other in possible if other.cause.id not in overridden):
            confidence *= CONSEQUENCE_FACTOR
        final[candidate.cause.id] = confidence
    order = [candidate for candidate in possible if final[candidate.cause.id] >= FINDING_AT]
    order.sort(key=lambda candidate: (-round(final[candidate.cause.id], 6), candidate.first, candidate.cause.id))
    return tuple(
        Finding(candidate, round(final[candidate.cause.id], 3), _rank_reason(candidate, following, final))
        for candidate, following in zip(order, [*order[1:], None], strict=False)
    )


def _override_reason(one: Evidence, other: Evidence) -> str | None:
    """Return why `one` explains `other`; None if it does not."""
    if other.cause.harmless and not one.cause.harmless:
        return "the other is a complaint that breaks nothing"
    return next((override.why for override in one.cause.overrides if override.cause == other.cause.id), None)


def _overrides(one: Evidence, other: Evidence) -> bool:
    """Return whether `one` explains `other` and is likely enough."""
    strong = max(STRONG_AT, OVERRIDE_RATIO * other.confidence)
    return one.confidence >= strong and _override_reason(one, other) is not None


def _precedes(one: Evidence, other: Evidence) -> bool:
    """Return whether `one` is strong and its first line is earlier than that of `other`."""
    if one is other or one.confidence < STRONG_AT or _override_reason(other, one) is not None:
        return False
    begin, later = one.first_cause, other.first_cause or other.first
    return begin is not None and (begin.source, begin.line) < (later.source, later.line)


def _rank_reason(one: Evidence, other: Evidence | None, final: Mapping[str, float]) -> str:
    """Return why a cause ranks before the next."""
    if other is None:
        return "no other cause is as likely"
    if _overrides(one, other):
        reason = _override_reason(one, other)
    elif _precedes(one, other):
        begin, later = one.first_cause or one.first, other.first_cause or other.first
        reason = f"it appears first, on line {begin.line}, the other on line {later.line}"
    elif final[one.cause.id] - final[other.cause.id] < EQUAL:
        reason = "equally likely, but its line comes first"
    else:
        reason = f"more likely ({final[one.cause.id]:.2f} against {final[other.cause.id]:.2f})"
    return f"before {other.cause.id}: {reason}"

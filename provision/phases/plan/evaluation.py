"""Asks every rule about a class and its candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from provision.core.models.stack import Reason
from provision.phases.plan.build_option import BuildOption, options
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict
from provision.phases.plan.rules import HOST_RULES, RULES

HOST = "host"
ENOUGH = 6
"""Accepted candidates that are kept for `stage`: it takes the next one when uv refuses the first."""
FALLBACKS = 3
"""Accepted candidates that are kept besides for each smaller set of vendors' indexes, the default index alone included:
`stage` takes one of them where an index cannot be reached."""


_ASKED = tuple((rule.id, rule.evaluate) for rule in RULES)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One candidate, or the host itself (`option` None), with what each rule said."""

    option: BuildOption | None
    accepted: bool
    verdicts: tuple[tuple[str, Verdict], ...]


def evaluate_host(profile: HostProfile) -> Evaluation:
    """What the rules on the host itself say."""
    said = tuple((rule.id, verdict) for rule in HOST_RULES for verdict in rule.evaluate(profile))
    return Evaluation(None, all(verdict.kind != "reject" for _, verdict in said), said)


def evaluate(option: BuildOption, profile: HostProfile) -> Evaluation:
    """What the rules say of a candidate, up to the first refusal."""
    said: list[tuple[str, Verdict]] = []
    for name, ask in _ASKED:
        for verdict in ask(option, profile):
            said.append((name, verdict))
            if verdict.kind == "reject":
                return Evaluation(option, False, tuple(said))
    return Evaluation(option, True, tuple(said))


def evaluate_every_rule(option: BuildOption, profile: HostProfile) -> Evaluation:
    """What every rule says of a candidate, also after a refusal."""
    said = tuple((rule.id, verdict) for rule in RULES for verdict in rule.evaluate(option, profile))
    return Evaluation(option, all(verdict.kind != "reject" for _, verdict in said), said)


def evaluations(profile: HostProfile) -> Iterator[Evaluation]:
    """Candidates in their order, judged, until enough are accepted; then those alone that need fewer of the vendors' indexes."""
    kept: Counter[frozenset[str]] = Counter()
    for option in options(profile):
        needed = option.index_hosts(profile.machine)
        if kept.total() >= ENOUGH:
            if kept[frozenset()] >= FALLBACKS:
                return
            if sum(count for hosts, count in kept.items() if hosts <= needed) >= FALLBACKS:
                continue
        result = evaluate(option, profile)
        if result.accepted or kept.total() < ENOUGH:
            yield result
        kept[needed] += result.accepted


def reason(rule: str, verdict: Verdict, candidate: str) -> Reason:
    """A verdict as the plan records it. Assumptions are no reasons."""
    assert verdict.kind != "assume"
    return Reason(
        rule=rule,
        verdict=verdict.kind,
        candidate=candidate,
        facts=verdict.facts,
        text=verdict.text,
        source=verdict.source,
    )

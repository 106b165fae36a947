"""The evaluation of a class and its candidates by the rules."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from provision.core.models.stack import Reason
from provision.phases.plan.build_option import BuildOption, options
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Rule, Verdict
from provision.phases.plan.rules import HOST_RULES, RULES

HOST = "host"
ENOUGH = 6
"""Accepted candidates for `stage`, which takes the next one if uv cannot lock the first."""
FALLBACKS = 3
"""Further accepted candidates for each smaller set of vendors' indexes, the default index alone included:
`stage` takes one of them if an index is unreachable."""


@dataclass(frozen=True)
class Evaluation:
    """The verdicts on one candidate, or on the host (`option` is None)."""

    option: BuildOption | None
    accepted: bool
    verdicts: tuple[tuple[Rule[Any], Verdict], ...]

    @property
    def name(self) -> str:
        return self.option.id if self.option else HOST

    def reasons(self, *kinds: Literal["accept", "warn", "reject"]) -> list[Reason]:
        """Return the verdicts of some kinds as reasons of the plan."""
        return [
            Reason(
                rule=rule.id,
                verdict=verdict.kind,
                candidate=self.name,
                facts=verdict.facts,
                text=verdict.text,
                source=verdict.source or rule.source,
            )
            for rule, verdict in self.verdicts
            if verdict.kind != "assume" and verdict.kind in kinds
        ]


def evaluate_host(profile: HostProfile) -> Evaluation:
    """Evaluate the host rules."""
    found = tuple((rule, verdict) for rule in HOST_RULES for verdict in rule.evaluate(profile))
    return Evaluation(None, all(verdict.kind != "reject" for _, verdict in found), found)


def evaluate(option: BuildOption, profile: HostProfile, *, every_rule: bool = False) -> Evaluation:
    """Evaluate a candidate up to the first refusal, or by every rule."""
    found: list[tuple[Rule[Any], Verdict]] = []
    accepted = True
    for rule in RULES:
        for verdict in rule.evaluate(option, profile):
            found.append((rule, verdict))
            accepted = accepted and verdict.kind != "reject"
            if not (accepted or every_rule):
                return Evaluation(option, False, tuple(found))
    return Evaluation(option, accepted, tuple(found))


def evaluations(profile: HostProfile) -> Iterator[Evaluation]:
    """Yield evaluated candidates in their order until enough are accepted, then only those that need fewer of the vendors' indexes."""
    accepted: Counter[frozenset[str]] = Counter()
    for option in options(profile):
        needed = option.index_hosts(profile.machine)
        if accepted.total() >= ENOUGH:
            if accepted[frozenset()] >= FALLBACKS:
                return
            if sum(count for hosts, count in accepted.items() if hosts <= needed) >= FALLBACKS:
                continue
        result = evaluate(option, profile)
        if result.accepted or accepted.total() < ENOUGH:
            yield result
        accepted[needed] += result.accepted

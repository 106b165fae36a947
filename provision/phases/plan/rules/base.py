"""What a rule is: an id, a sentence, the facts it reads, and a judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Literal, NamedTuple, ParamSpec, cast

from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile

P = ParamSpec("P")


class Verdict(NamedTuple):
    """`assume`: a fact is unknown, the candidate is kept and the assumption named."""

    kind: Literal["accept", "reject", "warn", "assume"]
    text: str
    facts: dict[str, Any]
    source: str | None


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What every rule says of itself: the sentence that must hold, and the facts and settings it reads."""

    id: str
    statement: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule(RuleInfo):
    """A rule on one candidate for one class of hosts. It says nothing where it does not apply."""

    evaluate: Callable[[BuildOption, HostProfile], Iterable[Verdict]]


@dataclass(frozen=True, slots=True)
class HostRule(RuleInfo):
    """A rule on the host itself, whatever the candidate."""

    evaluate: Callable[[HostProfile], Iterator[Verdict]]


def memoized(evaluate: Callable[P, Iterator[Verdict]]) -> Callable[P, tuple[Verdict, ...]]:
    """Judges once for equal arguments: most classes of a large fleet share the little that the first rules read."""

    @cache
    @wraps(evaluate)
    def kept(*arguments: P.args, **named: P.kwargs) -> tuple[Verdict, ...]:
        return tuple(evaluate(*arguments, **named))

    return cast("Callable[P, tuple[Verdict, ...]]", kept)


def accept(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("accept", text, facts, source)


def reject(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("reject", text, facts, source)


def warn(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("warn", text, facts, source)


def assume(text: str) -> Verdict:
    return Verdict("assume", text, {}, None)

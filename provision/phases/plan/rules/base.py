"""What a rule is: an id, a sentence, the facts it reads, and a judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Literal, NamedTuple, ParamSpec, cast

from provision.phases.plan.build_option import Option
from provision.phases.plan.host_profile import View

P = ParamSpec("P")


class Verdict(NamedTuple):
    """`assume`: a fact is unknown, the candidate is kept and the assumption named."""

    kind: Literal["accept", "reject", "warn", "assume"]
    text: str
    facts: dict[str, Any]
    source: str | None


@dataclass(frozen=True, slots=True)
class Stated:
    """What every rule says of itself: the sentence that must hold, and the facts and settings it reads."""

    id: str
    statement: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule(Stated):
    """A rule on one candidate for one class of hosts. It says nothing where it does not apply."""

    judge: Callable[[Option, View], Iterable[Verdict]]


@dataclass(frozen=True, slots=True)
class HostRule(Stated):
    """A rule on the host itself, whatever the candidate."""

    judge: Callable[[View], Iterator[Verdict]]


def remembered(judge: Callable[P, Iterator[Verdict]]) -> Callable[P, tuple[Verdict, ...]]:
    """Judges once for equal arguments: most classes of a large fleet share the little that the first rules read."""

    @cache
    @wraps(judge)
    def kept(*arguments: P.args, **named: P.kwargs) -> tuple[Verdict, ...]:
        return tuple(judge(*arguments, **named))

    return cast("Callable[P, tuple[Verdict, ...]]", kept)


def accept(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("accept", text, facts, source)


def reject(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("reject", text, facts, source)


def warn(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("warn", text, facts, source)


def assume(text: str) -> Verdict:
    return Verdict("assume", text, {}, None)

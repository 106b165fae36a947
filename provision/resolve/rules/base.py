"""What a rule is: an id, a sentence, the facts it reads, and a judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from provision.resolve.option import Option
from provision.resolve.view import View


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
    """A rule on one candidate for one class of hosts. It yields nothing where it does not apply."""

    judge: Callable[[Option, View], Iterator[Verdict]]


@dataclass(frozen=True, slots=True)
class HostRule(Stated):
    """A rule on the host itself, whatever the candidate."""

    judge: Callable[[View], Iterator[Verdict]]


def accept(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("accept", text, facts, source)


def reject(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("reject", text, facts, source)


def warn(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("warn", text, facts, source)


def assume(text: str) -> Verdict:
    return Verdict("assume", text, {}, None)

"""The interface of a rule: an id, the statement that must hold, what it reads, and a function that evaluates it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar

from provision.phases.plan.host_profile import HostProfile

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)
LAST = 1000
"""The order of a rule that names none: after all that do."""


@dataclass(frozen=True, eq=False)
class Choice(Generic[T_co]):
    """A part of a candidate with the reason for it."""

    plan: T_co
    why: str
    refused: str | None = None
    """Why what the settings request is not possible."""
    assumed: str | None = None
    """What is assumed about the host."""
    source: str | None = None


class Verdict(NamedTuple):
    """One result of a rule. `assume`: a fact is unknown; the candidate stays and the plan lists the assumption."""

    kind: Literal["accept", "reject", "warn", "assume"]
    text: str
    facts: dict[str, Any]
    source: str | None


@dataclass(frozen=True)
class Rule(Generic[P]):
    """A rule on one candidate for one class of hosts, or on the host alone. It yields nothing where it does not apply."""

    id: str
    """The function's name with dashes."""
    statement: str
    """The sentence that must hold."""
    reads: tuple[str, ...]
    """Facts, and settings as `settings.NAME`."""
    order: int
    """Lower orders are evaluated first, and the first refusal ends the evaluation of a candidate."""
    cause: str | None
    """The doctor's id (verify/doctor/causes) of the failure that a refusal prevents; None if no program reports it."""
    source: str | None
    """The source of its verdicts that name no other."""
    evaluate: Callable[P, Iterable[Verdict]]


class HostRule(Rule[[HostProfile]]):
    """A rule on the host, independent of the candidate."""


def rule(
    statement: str, *, reads: tuple[str, ...], order: int = LAST, cause: str | None = None, source: str | None = None
) -> Callable[[Callable[P, Iterable[Verdict]]], Rule[P]]:
    """Declare a function of a module in rules/ as a rule on candidates. Arguments are the fields of `Rule`."""
    return lambda evaluate: Rule(_id_of(evaluate), statement, reads, order, cause, source, evaluate)


def host_rule(
    statement: str, *, reads: tuple[str, ...], order: int = LAST, cause: str | None = None, source: str | None = None
) -> Callable[[Callable[[HostProfile], Iterable[Verdict]]], HostRule]:
    """Declare a function of a module in rules/ as a rule on the host. Arguments are the fields of `Rule`."""
    return lambda evaluate: HostRule(_id_of(evaluate), statement, reads, order, cause, source, evaluate)


def _id_of(evaluate: Callable[..., Any]) -> str:
    return evaluate.__name__.replace("_", "-")


def accept(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("accept", text, facts, source)


def reject(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("reject", text, facts, source)


def warn(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("warn", text, facts, source)


def assume(text: str) -> Verdict:
    return Verdict("assume", text, {}, None)

"""The interface of a rule: a function that evaluates it, whose docstring is the statement that must hold."""

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

    order: int
    """Lower orders are evaluated first, and the first refusal ends the evaluation of a candidate."""
    cause: str | None
    """The doctor's id (verify/doctor/causes) of the failure that a refusal prevents; None if no program reports it."""
    source: str | None
    """The source of its verdicts that name no other."""
    evaluate: Callable[P, Iterable[Verdict]]

    @property
    def id(self) -> str:
        """Return the function's name with dashes."""
        return self.evaluate.__name__.replace("_", "-")

    @property
    def statement(self) -> str:
        """Return the sentence that must hold: the function's docstring."""
        return self.evaluate.__doc__ or ""


class HostRule(Rule[[HostProfile]]):
    """A rule on the host, independent of the candidate."""


def rule(
    *, order: int = LAST, cause: str | None = None, source: str | None = None
) -> Callable[[Callable[P, Iterable[Verdict]]], Rule[P]]:
    """Declare a function of a module in rules/ as a rule on candidates: its docstring is the statement. Arguments are the fields of `Rule`."""
    return lambda evaluate: Rule(order, cause, source, evaluate)


def host_rule(
    *, order: int, cause: str | None = None, source: str | None = None
) -> Callable[[Callable[[HostProfile], Iterable[Verdict]]], HostRule]:
    """Declare a function of a module in rules/ as a rule on the host, as `rule` does."""
    return lambda evaluate: HostRule(order, cause, source, evaluate)


def accept(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("accept", text, facts, source)


def reject(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("reject", text, facts, source)


def warn(text: str, *, source: str | None = None, **facts: Any) -> Verdict:
    return Verdict("warn", text, facts, source)


def assume(text: str) -> Verdict:
    return Verdict("assume", text, {}, None)

"""Records of the catalog: a cause of failures, the lines that show it, and its fixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["cause", "symptom"]
ROLES: tuple[Role, ...] = ("cause", "symptom")
SYMPTOM_WEIGHT = 0.4
"""Highest weight of a line that several causes share."""
FACT_TESTS = ("below", "at_least", "equals", "contains", "matches", "is_null", "not_null")
NEEDS = ("sudo", "reboot", "relogin", "network", "downtime")


class CatalogError(ValueError):
    """A table of the catalog is invalid; the text names the cause and the key."""


@dataclass(frozen=True)
class Signature:
    """A line that speaks for a cause. `weight` is the confidence that this line alone gives."""

    pattern: str
    weight: float
    why: str
    role: Role = "cause"
    near: str | None = None
    """A pattern that must match within `scanner.NEAR_LINES` lines, or the line does not count."""


@dataclass(frozen=True)
class Counter:
    """A line that speaks against a cause: it multiplies the confidence by 1 - weight."""

    pattern: str
    weight: float
    why: str
    near: str | None = None


@dataclass(frozen=True)
class FactRule:
    """A fact that raises (effect above 0) or lowers (below 0) the confidence."""

    path: str
    test: str
    effect: float
    why: str
    value: str = ""


@dataclass(frozen=True)
class Override:
    """Another cause that this one explains: its consequence, or a cause with similar lines."""

    cause: str
    why: str


@dataclass(frozen=True)
class Fix:
    """One step that removes the cause. `safe`: `doctor --apply` may run the playbook tag `tag`."""

    text: str
    command: str = ""
    needs: tuple[str, ...] = ()
    safe: bool = False
    tag: str = ""


@dataclass(frozen=True)
class FixCheck:
    """A command that shows whether the fix worked, and its expected result."""

    command: str
    expect: str


@dataclass(frozen=True)
class Sample:
    """A log that tests the entry: one of this cause, or one that looks like it."""

    text: str
    is_cause: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    expect: str = ""
    """The cause of a log that only looks like this one; empty when it has none."""


@dataclass(frozen=True)
class Cause:
    """One entry of the catalog."""

    id: str
    definition: str
    explanation: str
    references: tuple[str, ...]
    signatures: tuple[Signature, ...]
    counters: tuple[Counter, ...]
    facts: tuple[FactRule, ...]
    overrides: tuple[Override, ...]
    fixes: tuple[Fix, ...]
    check: FixCheck
    samples: tuple[Sample, ...]
    messages: tuple[str, ...]
    """What programs and people write about this cause; the text classifier learns from it."""
    harmless: bool = False
    """A complaint that breaks nothing: every other finding ranks before it."""
    any_program: bool = False
    """It applies to logs of any program; other causes apply only to software that runs on accelerators."""

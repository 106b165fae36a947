"""The catalog of causes, the lines that show each of them, and its fixes: a TOML file for each in the repository, one JSON file in the zipapp."""

import json
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from verify.tables import parse_toml

Role = Literal["cause", "symptom"]
ROLES: tuple[Role, ...] = ("cause", "symptom")
SYMPTOM_WEIGHT = 0.4
"""Highest weight of a line that several causes share."""
FACT_TESTS = ("below", "at_least", "equals", "contains", "is_null", "not_null")
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


FOLDER = Path(__file__).parent / "causes"
PACKED_CAUSES = "causes.json"
NOT_PACKED = ("sample", "references", "printed")
"""Keys that only tests and documentation need."""
ENTRY_KINDS: dict[str, type[Any]] = {
    "signature": Signature,
    "counter": Counter,
    "fact": FactRule,
    "overrides": Override,
    "fix": Fix,
    "sample": Sample,
}
"""The tables of a cause's file that may be there several times, and the record of each."""
CAUSE_KEYS = {"id", "definition", "explanation", "references", "harmless", "any_program", "check", "printed"}
T = TypeVar("T")


@cache
def load_causes() -> tuple[Cause, ...]:
    """Return all causes, sorted by id.

    Raises:
        CatalogError: A cause's file is invalid.

    """
    try:
        packed = pkgutil.get_data("verify.doctor", PACKED_CAUSES)
    except OSError:  # zipimport raises no narrower error for a file that the archive does not hold
        packed = None
    return parse_causes(_read_folder(FOLDER) if packed is None else json.loads(packed))


def parse_causes(tables: Mapping[str, Mapping[str, Any]]) -> tuple[Cause, ...]:
    """Return the causes of tables, which are given by id. Raises CatalogError."""
    return tuple(_parse_cause(name, table) for name, table in sorted(tables.items()))


def pack(folder: Path = FOLDER) -> bytes:
    """Return the causes of a folder as the zipapp holds them: JSON, because Python 3.10 cannot read TOML."""
    causes = {
        name: {key: value for key, value in table.items() if key not in NOT_PACKED}
        for name, table in _read_folder(folder).items()
    }
    return json.dumps(causes, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _read_folder(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: _read_file(path) for path in sorted(folder.glob("*.toml"))}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CatalogError(f"{path.name} is not valid TOML: {error}") from None


def _parse_cause(name: str, table: Mapping[str, Any]) -> Cause:
    try:
        _refuse_unknown(table, CAUSE_KEYS | ENTRY_KINDS.keys(), "cause")
        entries = {
            kind: tuple(_record(record, kind, entry) for entry in table.get(kind, ()))
            for kind, record in ENTRY_KINDS.items()
        }
        cause = Cause(
            id=table["id"],
            definition=table["definition"],
            explanation=table["explanation"],
            references=tuple(table.get("references", ())),
            signatures=entries["signature"],
            counters=entries["counter"],
            facts=entries["fact"],
            overrides=entries["overrides"],
            fixes=entries["fix"],
            check=_record(FixCheck, "check", table["check"]),
            samples=entries["sample"],
            messages=tuple(table.get("printed", {}).get("messages", ())),
            harmless=table.get("harmless", False),
            any_program=table.get("any_program", False),
        )
        _validate(cause, name)
    except KeyError as error:
        raise CatalogError(f"{name}: no key {error}") from None
    except (TypeError, ValueError) as error:
        raise CatalogError(f"{name}: {error}") from None
    return cause


def _record(record: type[T], kind: str, entry: Mapping[str, Any]) -> T:
    """Build a record of an entry. Raises ValueError for an unknown key, KeyError for a missing one."""
    known = fields(record)  # type: ignore[arg-type]  # every record is a dataclass
    _refuse_unknown(entry, {field.name for field in known}, kind)
    for field in known:
        if field.default is MISSING and field.default_factory is MISSING and field.name not in entry:
            raise KeyError(field.name)
    return record(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})


def _validate(cause: Cause, name: str) -> None:
    _require(cause.id == name, f"id is `{cause.id}`, the file's name is `{name}`")
    _require(bool(cause.signatures), "no [[signature]]")
    _require(bool(cause.fixes), "no [[fix]]")
    _require("\n" not in cause.definition.strip(), "the definition is more than one line")
    for signature in cause.signatures:
        role, weight = signature.role, signature.weight
        _require(role in ROLES, f"role `{role}` is not one of {', '.join(ROLES)}")
        _require(0 < weight <= (1 if role == "cause" else SYMPTOM_WEIGHT), f"weight {weight} of a {role}")
    for counter in cause.counters:
        _require(0 < counter.weight <= 1, f"weight {counter.weight} of a counter")
    for rule in cause.facts:
        _require(rule.test in FACT_TESTS, f"test `{rule.test}` is not one of {', '.join(FACT_TESTS)}")
        _require(-1 <= rule.effect <= 1, f"effect {rule.effect} of {rule.path}")
    for fix in cause.fixes:
        unknown = sorted(set(fix.needs) - set(NEEDS))
        _require(not unknown, f"a fix needs {', '.join(unknown)}; allowed are {', '.join(NEEDS)}")


def _refuse_unknown(entry: Mapping[str, Any], known: set[str], kind: str) -> None:
    unknown = set(entry) - known
    _require(not unknown, f"unknown key {', '.join(sorted(unknown))} in {kind}")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)

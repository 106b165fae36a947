"""The catalog of causes, the lines that show each of them, and its fixes: a TOML file for each in the repository, one JSON file in the zipapp."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from verify.tables import parse_toml, resource

Role = Literal["cause", "symptom"]
SYMPTOM_WEIGHT = 0.4
"""Highest weight of a line that several causes share."""


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
class FactRule:
    """A fact that raises (effect above 0) or lowers (below 0) the confidence."""

    path: str
    test: Literal["below", "at_least", "equals", "contains", "is_null", "not_null"]
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
    needs: tuple[Literal["sudo", "reboot", "relogin", "network", "downtime"], ...] = ()
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
    counters: tuple[Signature, ...]
    """Lines that speak against it: each multiplies the confidence by 1 - weight. Their role does not count."""
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
ENTRIES: dict[str, tuple[str, type[Any]]] = {
    "signature": ("signatures", Signature),
    "counter": ("counters", Signature),
    "fact": ("facts", FactRule),
    "overrides": ("overrides", Override),
    "fix": ("fixes", Fix),
    "sample": ("samples", Sample),
}
"""The tables of a cause's file that may be there several times: the field and the record of each."""


@cache
def load_causes() -> tuple[Cause, ...]:
    """Return all causes, sorted by id."""
    content = resource(f"doctor/{PACKED_CAUSES}")
    return parse_causes(_read_folder(FOLDER) if content is None else json.loads(content))


def parse_causes(tables: Mapping[str, Mapping[str, Any]]) -> tuple[Cause, ...]:
    """Return the causes of tables, which are given by id. Raises ValueError with the id of an invalid one."""
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
        raise ValueError(f"{path.name} is not valid TOML: {error}") from None


def _parse_cause(name: str, table: Mapping[str, Any]) -> Cause:
    try:
        values = {key: value for key, value in table.items() if key not in {*ENTRIES, "printed"}}
        values |= {
            field: tuple(_record(record, entry) for entry in table.get(kind, ()))
            for kind, (field, record) in ENTRIES.items()
        }
        values |= {"check": FixCheck(**table["check"]), "references": tuple(table.get("references", ()))}
        return Cause(**values, messages=tuple(table.get("printed", {}).get("messages", ())))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name}: {error!r}") from None


def _record(record: type[Any], entry: Mapping[str, Any]) -> Any:
    """Build a record of an entry. Raises TypeError for an unknown or a missing key."""
    return record(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})

"""The catalogue of causes: one TOML file each in the repository, one packed JSON file inside the zipapp."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from verify.doctor.words import Words

Role = Literal["cause", "symptom"]
ROLES: tuple[Role, ...] = ("cause", "symptom")
SYMPTOM_WEIGHT = 0.4
"""A line that other causes show as well weighs at most this much."""
TESTS = ("below", "at_least", "equals", "contains", "matches", "is_null", "not_null")
NEEDS = ("sudo", "reboot", "relogin", "network", "downtime")
BAKED = "causes.json.bz2"
"""A zip file is imported from only where it is deflated, which leaves a fifth more of the causes than bzip2 does."""
CONSEQUENCES, TONES = "consequences", "tones"
MESSAGES, HEALTHY = "messages", "healthy"
FOLDER = "causes"


class CatalogError(ValueError):
    """A cause's table is not what the engine can use; names the cause and the key."""


@dataclass(frozen=True)
class Signature:
    """A line that speaks for a cause. `weight`: how sure the line alone makes it."""

    pattern: str
    weight: float
    role: Role
    why: str
    near: str | None = None
    """Must match within `evidence.NEAR_LINES` lines, or the line does not count."""


@dataclass(frozen=True)
class Counter:
    """A line that speaks against a cause: the confidence is multiplied by 1 - weight."""

    pattern: str
    weight: float
    why: str
    near: str | None = None


@dataclass(frozen=True)
class FactRule:
    """A fact that raises (effect above 0) or lowers (below 0) the confidence."""

    path: str
    test: str
    value: str
    effect: float
    why: str


@dataclass(frozen=True)
class Beats:
    """Another cause that this one explains: its consequence, or its lookalike."""

    cause: str
    why: str


@dataclass(frozen=True)
class Fix:
    text: str
    command: str
    needs: tuple[str, ...]
    safe: bool
    tag: str


@dataclass(frozen=True)
class Check:
    """How to see that the fix worked."""

    command: str
    expect: str


@dataclass(frozen=True)
class Sample:
    """An entry's own test: a log that is this cause, or one that must not be taken for it."""

    text: str
    is_cause: bool
    facts: Mapping[str, Any]
    expect: str


@dataclass(frozen=True)
class Cause:
    id: str
    definition: str
    explanation: str
    references: tuple[str, ...]
    signatures: tuple[Signature, ...]
    counters: tuple[Counter, ...]
    facts: tuple[FactRule, ...]
    beats: tuple[Beats, ...]
    fixes: tuple[Fix, ...]
    check: Check
    samples: tuple[Sample, ...]
    harmless: bool = False
    """A complaint that breaks nothing: whatever else is found is the reason."""
    any_program: bool = False
    """Whatever program says it, it is this cause; others are found only in texts about what runs on accelerators."""


@cache
def catalogue() -> tuple[Cause, ...]:
    """All causes, by id. Raises CatalogError, and ModuleNotFoundError in the zipapp on a Python that was built without bz2."""
    packed = _packed(BAKED)
    return read(unpacked(packed) if packed is not None else _tables(Path(__file__).parent / FOLDER))


def read(tables: Mapping[str, Mapping[str, Any]]) -> tuple[Cause, ...]:
    """The causes of tables by id. Raises CatalogError."""
    return tuple(_cause(name, table) for name, table in sorted(tables.items()))


def bake(folder: Path) -> dict[str, bytes]:
    """The tables of the doctor's folder as the zipapp holds them, by file name: without the entries' own tests and references.

    The values of each key of all signatures stand together, which packs smaller. Words stay here.
    """
    import bz2  # not every Python has it, and only the causes need it

    causes = {
        name: {key: value for key, value in table.items() if key not in ("sample", "references")}
        for name, table in _tables(folder / FOLDER).items()
    }
    consequences = [
        {key: value for key, value in entry.items() if key != "sample"}
        for entry in _parsed(folder / f"{CONSEQUENCES}.toml")["consequence"]
    ]
    return {
        BAKED: bz2.compress(_compact(_columns(causes))),
        f"{CONSEQUENCES}.json": _compact({"consequence": consequences}),
        f"{TONES}.json": _compact(_parsed(folder / f"{TONES}.toml")),
    }


def unpacked(packed: bytes) -> dict[str, dict[str, Any]]:
    """The causes' tables of what `bake` made. Raises ModuleNotFoundError on a Python that was built without bz2."""
    import bz2

    baked = json.loads(bz2.decompress(packed))
    found: dict[str, dict[str, Any]] = {name: {} for name in baked["names"]}
    for kind, (counts, columns) in baked["kinds"].items():
        rows = zip(*columns.values(), strict=True)
        entries = [{key: v for key, v in zip(columns, row, strict=True) if v is not None} for row in rows]
        for table, count in zip(found.values(), counts, strict=True):
            if count:
                table.update({kind: entries[:count]} if kind else entries[0])
            del entries[:count]
    return found


def _columns(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The tables turned: what stands under one key in all of them lies together, which packs far smaller.

    Of each kind of entry: how many each table has, and each key's values; null is none. What is no entry is of a kind without name.
    """
    split = [_split(table) for _, table in sorted(tables.items())]
    turned = {}
    for kind in sorted(set().union(*split)):
        entries = [entry for table in split for entry in table.get(kind, ())]
        keys = sorted(set().union(*entries))
        columns = {key: [entry.get(key) for entry in entries] for key in keys}
        turned[kind] = [[len(table.get(kind, ())) for table in split], columns]
    return {"names": sorted(tables), "kinds": turned}


def _split(table: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    entries = {
        key: value for key, value in table.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    return {"": [{key: value for key, value in table.items() if key not in entries}], **entries}


def consequences() -> tuple[tuple[str, str], ...]:
    """Lines that follow from a cause without naming it: a pattern, and where to look next."""
    return tuple((entry["pattern"], entry["next"]) for entry in table(CONSEQUENCES)["consequence"])


def table(name: str) -> dict[str, Any]:
    """A table of the doctor's folder by its name, in the zipapp as `bake` put it there. Raises CatalogError."""
    packed = _packed(f"{name}.json")
    found: dict[str, Any] = (
        json.loads(packed) if packed is not None else _parsed(Path(__file__).parent / f"{name}.toml")
    )
    return found


@cache
def words() -> Words | None:
    """The words of all causes; null in the zipapp, where there is no room for them. Raises CatalogError."""
    return None if _packed(BAKED) is not None else _learned(Path(__file__).parent)


def _learned(folder: Path) -> Words:
    """From the entries' definitions and samples, and from what is known to be said of each cause and of none."""
    from verify.doctor.words import HEALTHY as NO_CAUSE  # the zipapp does without
    from verify.doctor.words import Words

    said: dict[str, list[str]] = {NO_CAUSE: []}
    for name, table in _tables(folder / FOLDER).items():
        samples = table.get("sample", ())
        said[name] = [f"{name.replace('-', ' ')}: {table['definition']} {table['explanation']}"]
        said[name] += [sample["text"] for sample in samples if sample["is"]]
        said[NO_CAUSE] += [sample["text"] for sample in samples if not sample["is"] and not sample.get("expect")]
    for name, messages in _parsed(folder / f"{MESSAGES}.toml").items():
        said[name] += messages
    healthy = _parsed(folder / f"{HEALTHY}.toml").values()
    said[NO_CAUSE] += [line for text in healthy for line in text.splitlines() if line.strip()]
    said[NO_CAUSE] += [entry["sample"] for entry in _parsed(folder / f"{CONSEQUENCES}.toml")["consequence"]]
    return Words.learn(said)


def _tables(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: _parsed(path) for path in sorted(folder.glob("*.toml"))}


def _parsed(path: Path) -> dict[str, Any]:
    import tomllib  # Python 3.11: only the repository's own interpreter comes here

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{path.name} is no TOML: {error}") from None


def _packed(name: str) -> bytes | None:
    """What the zipapp holds in place of the tables; null in the repository."""
    try:
        return pkgutil.get_data("verify.doctor", name)
    except OSError:  # zipimport raises no narrower one for a file that the archive does not hold
        return None


def _compact(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


_KEYS = {
    "cause": {"id", "definition", "explanation", "references", "check", "harmless", "any_program"}
    | {"signature", "counter", "fact", "beats", "fix", "sample"},
    "signature": {"pattern", "weight", "role", "why", "near"},
    "counter": {"pattern", "weight", "why", "near"},
    "fact": {"path", "test", "value", "effect", "why"},
    "beats": {"cause", "why"},
    "fix": {"text", "command", "needs", "safe", "tag"},
    "check": {"command", "expect"},
    "sample": {"is", "text", "facts", "expect"},
}


def _cause(name: str, table: Mapping[str, Any]) -> Cause:
    try:
        _known(table, "cause")
        cause = Cause(
            id=table["id"],
            definition=table["definition"],
            explanation=table["explanation"],
            references=tuple(table.get("references", ())),
            signatures=tuple(_signature(entry) for entry in table["signature"]),
            counters=tuple(_counter(entry) for entry in table.get("counter", ())),
            facts=tuple(_fact(entry) for entry in table.get("fact", ())),
            beats=tuple(Beats(**_known(entry, "beats")) for entry in table.get("beats", ())),
            fixes=tuple(_fix(entry) for entry in table["fix"]),
            check=Check(**_known(table["check"], "check")),
            samples=tuple(_sample(entry) for entry in table.get("sample", ())),
            harmless=bool(table.get("harmless", False)),
            any_program=bool(table.get("any_program", False)),
        )
        _require(cause.id == name, f"id is `{cause.id}`, the file's name says `{name}`")
        _require(bool(cause.signatures), "no [[signature]]")
        _require(bool(cause.fixes), "no [[fix]]")
        _require("\n" not in cause.definition.strip(), "the definition is more than one line")
    except KeyError as error:
        raise CatalogError(f"{name}: no key {error}") from None
    except (TypeError, ValueError) as error:
        raise CatalogError(f"{name}: {error}") from None
    return cause


def _signature(entry: Mapping[str, Any]) -> Signature:
    _known(entry, "signature")
    role, weight = entry.get("role", "cause"), float(entry["weight"])
    _require(role in ROLES, f"role `{role}` is none of {', '.join(ROLES)}")
    _require(0 < weight <= (1 if role == "cause" else SYMPTOM_WEIGHT), f"weight {weight} of a {role}")
    return Signature(entry["pattern"], weight, role, entry["why"], entry.get("near") or None)


def _counter(entry: Mapping[str, Any]) -> Counter:
    _known(entry, "counter")
    weight = float(entry["weight"])
    _require(0 < weight <= 1, f"weight {weight} of a counter")
    return Counter(entry["pattern"], weight, entry["why"], entry.get("near") or None)


def _fact(entry: Mapping[str, Any]) -> FactRule:
    _known(entry, "fact")
    test, effect = entry["test"], float(entry["effect"])
    _require(test in TESTS, f"test `{test}` is none of {', '.join(TESTS)}")
    _require(-1 <= effect <= 1, f"effect {effect} of {entry['path']}")
    return FactRule(entry["path"], test, str(entry.get("value", "")), effect, entry["why"])


def _fix(entry: Mapping[str, Any]) -> Fix:
    _known(entry, "fix")
    needs = tuple(entry.get("needs", ()))
    unknown = set(needs) - set(NEEDS)
    _require(not unknown, f"a fix needs {', '.join(sorted(unknown))}; known are {', '.join(NEEDS)}")
    return Fix(entry["text"], entry.get("command", ""), needs, bool(entry.get("safe", False)), entry.get("tag", ""))


def _sample(entry: Mapping[str, Any]) -> Sample:
    _known(entry, "sample")
    return Sample(entry["text"], bool(entry["is"]), entry.get("facts", {}), entry.get("expect", ""))


def _known(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    unknown: Iterable[str] = set(entry) - _KEYS[kind]
    _require(not unknown, f"unknown key {', '.join(sorted(unknown))} in {kind}")
    return dict(entry)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)

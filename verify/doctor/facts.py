"""Facts by dotted path, as the probe reports them or a text holds them, and the tests of a cause on them.

The paths are those of docs/reference/facts.md. In addition there is `packages.NAME`, the version of a distribution. An
unknown fact has no effect.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from verify.doctor.catalog import FactRule
from verify.doctor.patterns import SearchPattern
from verify.doctor.scanner import Hit
from verify.tables import table

_NUMBERS = re.compile(r"\d+")


def fact_patterns() -> tuple[SearchPattern, ...]:
    """Return the patterns of lines that hold a fact."""
    return tuple(SearchPattern(row["pattern"], limit=1) for row in table("log_facts")["fact"])


def extract_facts(hits: Sequence[Sequence[Hit]]) -> dict[str, Any]:
    """Return the facts in the hits of `fact_patterns`; the first line with a fact wins."""
    found: dict[str, Any] = {}
    for row, lines in zip(table("log_facts")["fact"], hits, strict=True):
        for hit in lines:
            if match := re.search(row["pattern"], hit.text):
                *outer, last = row["path"].split(".")
                place = found
                for key in outer:
                    place = place.setdefault(key, {})
                place.setdefault(last, row.get("value", match[1].strip()))
    return found


def values_at(facts: Mapping[str, Any], path: str) -> list[Any]:
    """Return the values at a path: none for an unknown fact, one per element where the path leads through a list."""
    found: list[Any] = [facts]
    for key in path.split("."):
        found = [value[key] for value in _flat(found) if isinstance(value, Mapping) and key in value]
    return [*_flat(found)]


def holds(rule: FactRule, facts: Mapping[str, Any]) -> bool:
    """Return whether any value at the rule's path passes its test."""
    return any(_passes(rule, value) for value in values_at(facts, rule.path))


def merge_facts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of both; a known fact of the first wins."""
    merged = dict(second)
    for key, value in first.items():
        other = merged.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            merged[key] = merge_facts(value, other)
        elif value not in (None, [], ()) or key not in merged:
            merged[key] = value
    return merged


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the values, and those in lists among them."""
    for value in values:
        yield from _flat(value) if isinstance(value, (list, tuple)) else [value]


def _passes(rule: FactRule, value: Any) -> bool:
    if rule.test == "is_null":
        return value is None
    if value is None:
        return False
    text, expected = str(value).lower(), rule.value.lower()
    if rule.test in ("below", "at_least"):
        actual, bound = _version(text), _version(expected)
        return bool(actual and bound) and (actual < bound) == (rule.test == "below")
    return {"not_null": True, "equals": text == expected, "contains": expected in text}[rule.test]


def _version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version without its local part and trailing zeros: 13 equals 13.0."""
    numbers = [int(number) for number in _NUMBERS.findall(text.partition("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers) or ((0,) if _NUMBERS.search(text) else ())

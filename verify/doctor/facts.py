"""Facts by dotted path, and what a cause asks of them. An unknown fact has no say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from verify.doctor.catalog import FactRule

_NUMBERS = re.compile(r"\d+")


def values(facts: Mapping[str, Any], path: str) -> list[Any]:
    """What stands at a path: nothing when it is unknown, an element each where a list is on the way."""
    found: list[Any] = [facts]
    for key in path.split("."):
        found = [item for place in found for item in _step(place, key)]
    return [item for place in found for item in (place if isinstance(place, (list, tuple)) else [place])]


def holds(rule: FactRule, facts: Mapping[str, Any]) -> bool:
    """Whether a rule applies: any element is enough."""
    return any(_passes(rule, value) for value in values(facts, rule.path))


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of both; those of the first win, but an unknown there does not hide what the second saw."""
    merged = dict(second)
    for key, value in first.items():
        other = merged.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            merged[key] = merge(value, other)
        elif value not in (None, [], ()) or key not in merged:
            merged[key] = value
    return merged


def _step(place: Any, key: str) -> list[Any]:
    if isinstance(place, Mapping):
        return [place[key]] if key in place else []
    if isinstance(place, (list, tuple)):
        if key.isdigit():
            return [place[int(key)]] if int(key) < len(place) else []
        return [item for element in place for item in _step(element, key)]
    return []


def _passes(rule: FactRule, value: Any) -> bool:
    if rule.test == "is_null":
        return value is None
    if value is None:
        return False
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if rule.test in ("below", "at_least"):
        have, asked = _version(text), _version(rule.value)
        return bool(have and asked) and (have < asked) == (rule.test == "below")
    return {
        "not_null": True,
        "equals": text.lower() == rule.value.lower(),
        "contains": rule.value.lower() in text.lower(),
        "matches": rule.test == "matches" and re.search(rule.value, text) is not None,
    }[rule.test]


def _version(text: str) -> tuple[int, ...]:
    """Its numbers without a local part, zeros at the end left out: 13 and 13.0 are one version."""
    numbers = [int(number) for number in _NUMBERS.findall(text.partition("+")[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers) or ((0,) if _NUMBERS.search(text) else ())

"""Comparison of two JSON values: what differs, by dotted path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provision.core.models.records import Change, DifferencePart
from provision.report.difference import rules
from provision.report.difference.rules import Keys

LABELS = ("name", "version", "driver_version", "process", "mount", "path")
"""Fields that name a new or removed record, most specific first."""


def compare(part: DifferencePart, before: Any, after: Any) -> Iterator[Change]:
    """Yield every difference of two JSON values in the order of the earlier one, without volatile values and noise."""
    for keys, one, two in _differing((part,), before, after):
        yield Change(part=part, name=path(keys[1:]), before=one, after=two, text=rules.meaning(keys))


def _differing(keys: Keys, before: Any, after: Any) -> Iterator[tuple[Keys, Any, Any]]:
    if before == after or rules.is_volatile(keys):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from _differing((*keys, str(key)), before.get(key), after.get(key))
    elif _are_records(before) and _are_records(after):
        yield from _differing(keys, _by_identity(keys, before), _by_identity(keys, after))
    elif _is_list(before) and _is_list(after):
        gone = [item for item in before if item not in after]
        new = [item for item in after if item not in before]
        if gone or new:
            yield keys, gone or None, new or None
    elif not rules.is_noise(keys, before, after):
        yield keys, _short(before), _short(after)


def path(keys: Keys) -> str:
    """`nvidia.gpus[0000:3b:00.0].name`."""
    return "".join(key if key.startswith("[") or not number else f".{key}" for number, key in enumerate(keys))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _are_records(value: Any) -> bool:
    """Return whether a value is a list of records; an empty list counts as one."""
    return _is_list(value) and all(isinstance(item, Mapping) for item in value)


def _by_identity(keys: Keys, items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return items by identity; equal identities are numbered."""
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(items):
        if rules.is_passing(keys, item):
            continue
        name = rules.identity(keys, item) or str(number)
        again = sum(other == f"[{name}]" or other.startswith(f"[{name}#") for other in found)
        found[f"[{name}#{again + 1}]" if again else f"[{name}]"] = item
    return found


def _short(value: Any) -> Any:
    """Return the name of a new or removed record; the run's files have all of it."""
    if not isinstance(value, Mapping):
        return list(value) if isinstance(value, tuple) else value
    return next((value[key] for key in LABELS if value.get(key) is not None), "there")

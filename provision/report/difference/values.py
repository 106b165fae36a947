"""Two plain values side by side: what differs, each under its dotted path. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provision.core.models.records import Change, DifferencePart
from provision.report.difference import rules
from provision.report.difference.rules import Keys

LABELS = ("name", "version", "driver_version", "process", "mount", "path")
"""What a record that is new or gone is called by, the most telling first."""


def compare(part: DifferencePart, before: Any, after: Any) -> Iterator[Change]:
    """Every difference of two JSON values, in the order of the earlier one; volatile ones and noise left out."""
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
    """A list of records; an empty one may be a list of anything."""
    return _is_list(value) and all(isinstance(item, Mapping) for item in value)


def _by_identity(keys: Keys, items: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Items under what makes them the same; several alike are numbered."""
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(items):
        if rules.is_passing(keys, item):
            continue
        name = rules.identity(keys, item) or str(number)
        again = sum(other == f"[{name}]" or other.startswith(f"[{name}#") for other in found)
        found[f"[{name}#{again + 1}]" if again else f"[{name}]"] = item
    return found


def _short(value: Any) -> Any:
    """A record that is new or gone, by its name: all of it stands in the run's files."""
    if not isinstance(value, Mapping):
        return list(value) if isinstance(value, tuple) else value
    return next((value[key] for key in LABELS if value.get(key) is not None), "there")

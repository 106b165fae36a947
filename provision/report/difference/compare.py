"""Comparison of one host in two runs: settings, Stack, lock, facts, checks and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provision.core.models.facts import NOT_ASKED, HostFacts
from provision.core.models.records import Change, CheckRecord, DifferencePart, HostDifference, HostState
from provision.report.difference import rules
from provision.report.difference.records import HostRecords
from provision.report.difference.rules import Keys

SAME: frozenset[HostState] = frozenset({"serving", "unchanged"})
LOOKED: frozenset[HostState] = frozenset({"planned", "probed"})
"""States after commands that only read; they do not describe the host."""


def differences(before: Mapping[str, HostRecords], after: Mapping[str, HostRecords]) -> tuple[HostDifference, ...]:
    """Compare every host of `after` with its records in `before`, which may be of different runs.

    A host without earlier records has no changes. A part that only one run has is `unknown`, not a change, because a run
    that failed early did not reach later phases.
    """
    return tuple(
        host_difference(before[name], records)
        if name in before
        else HostDifference(host=name, before=None, after=records.run)
        for name, records in after.items()
    )


def host_difference(before: HostRecords, after: HostRecords) -> HostDifference:
    """Compare one host between two runs."""
    changes: list[Change] = []
    missing: dict[str, list[str]] = {}
    for part, one, two, compared in (
        ("settings", before.settings, after.settings, compare("settings", before.settings, after.settings)),
        ("stack", before.stack, after.stack, compare("stack", _dump(before.stack), _dump(after.stack))),
        ("lock", before.lock, after.lock, _locked(before.lock, after.lock)),
        ("facts", before.facts, after.facts, compare("facts", *_comparable(before.facts, after.facts))),
        ("checks", before.checks, after.checks, _checks(before.checks, after.checks)),
    ):
        if one and two:
            changes += compared
        elif one or two:
            missing.setdefault(before.run if two else after.run, []).append(part)
    changes += _figures(before, after)
    if before.state != after.state and not {before.state, after.state} <= SAME | LOOKED:
        changes.append(Change(part="state", name="state", before=before.state, after=after.state))
    return HostDifference(
        host=after.host,
        before=before.run,
        after=after.run,
        changes=tuple(changes),
        unknown=tuple(f"{', '.join(parts)}: not in run {run}" for run, parts in missing.items()),
    )


def _dump(record: Any) -> Any:
    return record.model_dump(mode="json") if record is not None else None


def _comparable(before: HostFacts | None, after: HostFacts | None) -> tuple[Any, Any]:
    """Return the facts of both runs without those that one of them did not ask for."""
    if before is None or after is None:
        return None, None
    one, two = _others(before), _others(after)
    for name in [name for facts in (before, after) for name, why in facts.unknown.items() if why == NOT_ASKED]:
        for known in (one, two):
            known.pop(name, None)
            known["unknown"].pop(name, None)
    return one, two


def _others(facts: HostFacts) -> dict[str, Any]:
    """Return facts without processes and ports of the service; whether it runs is a separate fact."""
    main = facts.installed.service_pid if facts.installed else None
    engines = {process.pid for process in facts.engine_processes if main and process.parent == main}
    ours = {main, *engines} - {None}
    known: dict[str, Any] = facts.model_dump(mode="json")
    for name in ("ports", "gpu_processes", "engine_processes"):
        known[name] = [item for item in known[name] if item["pid"] not in ours]
    return known


def _locked(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    """Yield changed pins: the version, or version and file when only the file changed."""
    for name in sorted({*before, *after}):
        one, two = before.get(name), after.get(name)
        if one == two:
            continue
        short = [(pin or "").partition(" ")[0] or None for pin in (one, two)]
        shown = short if short[0] != short[1] else [one, two]
        yield Change(part="lock", name=name, before=shown[0], after=shown[1])


def _by_place(checks: tuple[CheckRecord, ...]) -> dict[tuple[str, str], CheckRecord]:
    return {(check.id, check.device or ""): check for check in checks}


def _named(check: tuple[str, str]) -> str:
    return " on ".join(filter(None, check))


def _checks(before: tuple[CheckRecord, ...], after: tuple[CheckRecord, ...]) -> Iterator[Change]:
    """Yield checks with a changed status; a new check that passes is no change."""
    one, two = _by_place(before), _by_place(after)
    for key, check in two.items():
        was = one[key].status if key in one else None
        if check.status != was and not (was is None and check.status in ("ok", "skip")):
            yield Change(part="checks", name=_named(key), before=was, after=check.status, text=check.reason or None)
    for key in one.keys() - two.keys():
        yield Change(part="checks", name=_named(key), before=one[key].status, after=None)


def _figures(before: HostRecords, after: HostRecords) -> Iterator[Change]:
    """Yield figures that moved further than their noise."""
    one = before.figures()
    for key, (value, unit) in after.figures().items():
        if key not in one:
            continue
        was = one[key][0]
        if not rules.is_figure_noise(unit, before.spans.get(key, (was, was)), value):
            name = f"{_named(key[:2])}: {key[2]}"
            yield Change(part="figures", name=name, before=was, after=value, unit=unit or None)


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

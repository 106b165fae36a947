"""Records of hosts in runs, and their comparison: settings, Stack, lock, facts, checks and figures, by the rules of rules.toml."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from provision.core.models.facts import NOT_ASKED, HostFacts
from provision.core.models.records import Change, CheckRecord, DifferencePart, HostDifference, HostState
from provision.core.models.stack import Stack
from provision.core.models.staged import Staged
from provision.core.redaction import scrub
from provision.core.requirements_file import read_lock
from provision.core.run_folder import RunFolder
from provision.core.tables import own_table
from provision.report.run_files import read
from provision.report.summary_builder import build

FigureKey: TypeAlias = tuple[str, str, str]
"""Check, device, figure."""

REACHED = {"kind", "address", "port", "user", "become", "python_interpreter"}
"""Fields of a connection that an inventory sets."""


@dataclass(frozen=True)
class HostRecords:
    """One host in one run; None or empty means that the run did not reach this part."""

    host: str
    run: str
    state: HostState = "probed"
    facts: HostFacts | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings, and under `connection` how the host is reached; no secret."""
    stack: Stack | None = None
    lock: Mapping[str, str] = field(default_factory=dict)
    """Distribution to version, with the beginning of its file's sha256."""
    checks: tuple[CheckRecord, ...] = ()


def read_records(folder: Path) -> dict[str, HostRecords]:
    """Read the records of each host of a run's folder, also of a killed run; a missing or damaged file leaves out its part."""
    files = read(RunFolder(folder))
    summary = build(files)
    connections = {entry.name: entry for entry in files.inventory.hosts} if files.inventory else {}
    hosts: dict[str, HostRecords] = {}
    for host in summary.hosts:
        entry, staged = connections.get(host.name), files.staged.get(host.name)
        settings: dict[str, Any] = {}
        if entry is not None:
            reached = entry.connection.model_dump(mode="json", include=REACHED)
            settings = {**entry.settings.model_dump(mode="json"), "connection": reached}
        hosts[host.name] = HostRecords(
            host=host.name,
            run=files.run,
            state=host.state,
            facts=files.facts.get(host.name),
            settings=scrub(settings),
            stack=host.stack,
            lock=_lock(folder, staged) if staged else {},
            checks=host.checks,
        )
    return hosts


def _lock(folder: Path, staged: Staged) -> dict[str, str]:
    """Read the lock next to the class's record, whose stored path may be of another machine."""
    with contextlib.suppress(OSError):
        lock = (folder / "stage" / PurePath(staged.lock).name).read_text(encoding="utf-8")
        return {one.name: f"{one.version} (sha256 {min(one.hashes)[:12]})" for one in read_lock(lock) if one.hashes}
    return {}


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
    one, two = before.model_dump(mode="json"), after.model_dump(mode="json")
    for name in [name for facts in (before, after) for name, why in facts.unknown.items() if why == NOT_ASKED]:
        for known in (one, two):
            known.pop(name, None)
            known["unknown"].pop(name, None)
    return one, two


def _locked(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    """Yield changed pins: the version, or version and file when only the file changed."""
    for name in sorted({*before, *after}):
        one, two = before.get(name), after.get(name)
        if one == two:
            continue
        short = [(pin or "").partition(" ")[0] or None for pin in (one, two)]
        shown = short if short[0] != short[1] else [one, two]
        yield Change(part="lock", name=name, before=shown[0], after=shown[1])


def _named(check: tuple[str, str]) -> str:
    return " on ".join(filter(None, check))


def _checks(before: tuple[CheckRecord, ...], after: tuple[CheckRecord, ...]) -> Iterator[Change]:
    """Yield checks with a changed status; a new check that passes is no change."""
    one, two = ({(check.id, check.device or ""): check for check in checks} for checks in (before, after))
    for key, check in two.items():
        was = one[key].status if key in one else None
        if check.status != was and not (was is None and check.status in ("ok", "skip")):
            yield Change(part="checks", name=_named(key), before=was, after=check.status, text=check.reason or None)
    for key in one.keys() - two.keys():
        yield Change(part="checks", name=_named(key), before=one[key].status, after=None)


def _figures(before: HostRecords, after: HostRecords) -> Iterator[Change]:
    """Yield figures that moved by more than the noise of their units."""
    one = figures_of(before)
    for key, (value, unit) in figures_of(after).items():
        if key not in one:
            continue
        was = one[key][0]
        row = next((entry for entry in rules()["figures"]["unit"] if unit in entry["units"]), rules()["figures"])
        if not within(was, value, share=row["share"], least=row.get("least", 0.0)):
            name = f"{_named(key[:2])}: {key[2]}"
            yield Change(part="figures", name=name, before=was, after=value, unit=unit or None)


LABELS = ("name", "version", "driver_version", "process", "mount", "path")
"""Fields that name a new or removed record, most specific first."""


def compare(part: DifferencePart, before: Any, after: Any) -> Iterator[Change]:
    """Yield every difference of two JSON values in the order of the earlier one, without volatile values and noise."""
    for keys, one, two in _differing((part,), before, after):
        # The meaning of a changed fact, where its values do not show it.
        meaning = next((row["text"] for row in rules()["meaning"] if _fits(row["path"], keys)), None)
        yield Change(part=part, name=path(keys[1:]), before=one, after=two, text=meaning)


def _differing(keys: Keys, before: Any, after: Any) -> Iterator[tuple[Keys, Any, Any]]:
    if before == after or any(_fits(path, keys) for path in _volatile()):
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
    else:
        noise = next((row["share"] for row in rules()["noise"] if _fits(row["path"], keys)), 0.0)
        if not within(before, after, share=noise):
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
    return {f"[{identity(keys, item) or number}]": item for number, item in enumerate(items)}


def _short(value: Any) -> Any:
    """Return the name of a new or removed record; the run's files have all of it."""
    if not isinstance(value, Mapping):
        return list(value) if isinstance(value, tuple) else value
    return next((value[key] for key in LABELS if value.get(key) is not None), "there")


TABLE = Path(__file__).with_name("rules.toml")

Keys: TypeAlias = tuple[str, ...]
"""Path of a value: `facts`, `settings` or `stack`, field names, and `[identity]` for a list item."""


def rules() -> dict[str, Any]:
    """Return the rules of comparison: ignored values, and noise of figures."""
    return own_table(TABLE)


@cache
def _volatile() -> tuple[str, ...]:
    return tuple(path for row in rules()["volatile"] for path in row["paths"])


def figures_of(records: HostRecords) -> dict[FigureKey, tuple[float, str]]:
    """Return every figure that is compared, with its unit: it has a bound, or it is what a GPU or the service achieves."""
    only_with_bound = rules()["figures"]["only_with_bound"]
    return {
        (check.id, check.device or "", figure.name): (figure.value, figure.unit)
        for check in records.checks
        for figure in check.figures
        if figure.value is not None
        and (
            figure.floor is not None
            or figure.ceiling is not None
            or (check.device != "cpu" and figure.unit not in only_with_bound)
        )
    }


def within(before: Any, after: Any, *, share: float, least: float = 0.0) -> bool:
    """Return whether two numbers differ by at most a share of the earlier one, or by `least`; never for non-numbers."""
    if isinstance(before, bool) or isinstance(after, bool):
        return bool(before == after)
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return False
    return abs(after - before) <= max(share * abs(before), least)


def identity(keys: Keys, item: dict[str, Any]) -> str | None:
    """Return the identity of a list item; None where only its position identifies it."""
    fields = rules()["identity"].get(".".join(keys))
    values = [item.get(field) for field in fields or ()]
    return ":".join(str(value) for value in values) if values and None not in values else None


def _fits(path: str, keys: Keys) -> bool:
    """Return whether a path of the rules covers a value or one of its parents."""
    pattern = path.split(".")
    return len(pattern) <= len(keys) and all(part in ("*", key) for part, key in zip(pattern, keys, strict=False))

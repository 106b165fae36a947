"""One host in two runs: settings, Stack, lock, facts, checks and figures side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provision.models.facts import HostFacts
from provision.models.records import Change, CheckRecord, HostDifference
from provision.report.difference import rules
from provision.report.difference.records import HostRecords
from provision.report.difference.values import compare


def differences(before: Mapping[str, HostRecords], after: Mapping[str, HostRecords]) -> tuple[HostDifference, ...]:
    """What changed on every host of `after`, in its order, from the host's records in `before`, whichever run they are of.

    A host that `before` lacks has no earlier run and no changes. What only one of two runs came to is `unknown`, never
    a change: a run that failed early says nothing of the rooms behind.
    """
    return tuple(
        host_difference(before[name], records)
        if name in before
        else HostDifference(host=name, before=None, after=records.run)
        for name, records in after.items()
    )


def host_difference(before: HostRecords, after: HostRecords) -> HostDifference:
    """What changed on one host between two runs."""
    changes: list[Change] = []
    missing: dict[str, list[str]] = {}
    for part, one, two, compared in (
        ("settings", before.settings, after.settings, compare("settings", before.settings, after.settings)),
        ("stack", before.stack, after.stack, compare("stack", _dump(before.stack), _dump(after.stack))),
        ("lock", before.lock, after.lock, _locked(before.lock, after.lock)),
        ("facts", before.facts, after.facts, compare("facts", _others(before.facts), _others(after.facts))),
        ("checks", before.checks, after.checks, _checks(before.checks, after.checks)),
        ("figures", before.checks, after.checks, _figures(before.checks, after.checks)),
    ):
        if one and two:
            changes += compared
        elif (one or two) and part != "figures":
            missing.setdefault(before.run if two else after.run, []).append(part)
    changes += _phases(before, after)
    if before.state != after.state and {before.state, after.state} != {"serving", "unchanged"}:
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


def _others(facts: HostFacts | None) -> Any:
    """Facts without the processes and ports of the service itself: whether it runs is a fact of its own."""
    if facts is None:
        return None
    main = facts.installed.service_pid if facts.installed else None
    engines = {process.pid for process in facts.engine_processes if main and process.parent == main}
    ours = {main, *engines} - {None}
    known: dict[str, Any] = facts.model_dump(mode="json")
    for name in ("ports", "gpu_processes", "engine_processes"):
        known[name] = [item for item in known[name] if item["pid"] not in ours]
    return known


def _locked(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    """A version is told alone where it changed, with its file where that alone did."""
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
    """A check that ended otherwise, with the newer one's reason; one that is new and well is none."""
    one, two = _by_place(before), _by_place(after)
    for key, check in two.items():
        was = one[key].status if key in one else None
        if check.status != was and not (was is None and check.status in ("ok", "skip")):
            yield Change(part="checks", name=_named(key), before=was, after=check.status, text=check.reason or None)
    for key in one.keys() - two.keys():
        yield Change(part="checks", name=_named(key), before=one[key].status, after=None)


def _figures(before: tuple[CheckRecord, ...], after: tuple[CheckRecord, ...]) -> Iterator[Change]:
    one, two = _by_place(before), _by_place(after)
    for key in (key for key in two if key in one):
        was = {figure.name: figure for figure in one[key].figures}
        for figure in two[key].figures:
            earlier = was.get(figure.name)
            if earlier is None or earlier.value is None or figure.value is None:
                continue
            if not rules.is_figure_noise(figure.unit, earlier.value, figure.value):
                name = f"{_named(key)}: {figure.name}"
                yield Change(
                    part="figures", name=name, before=earlier.value, after=figure.value, unit=figure.unit or None
                )


def _phases(before: HostRecords, after: HostRecords) -> Iterator[Change]:
    """Seconds of the service's start."""
    one, two = (records.serve.phases_s if records.serve else {} for records in (before, after))
    for name in (name for name in two if name in one):
        if not rules.is_figure_noise("s", one[name], two[name]):
            yield Change(part="figures", name=f"start: {name}", before=one[name], after=two[name], unit="s")

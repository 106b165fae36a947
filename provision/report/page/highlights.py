"""Highlights at the top of the page: failures, warnings and changes, equal hosts once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from provision.core.models.records import Finding, HostDifference, HostSummary, Summary
from provision.report import wording
from provision.report.difference.text import grouped, sentence
from provision.report.group import group_hosts
from provision.report.layout import fold_names
from verify.records import NETWORK

WarningKind = Literal["hosts differ", "hosts cannot communicate", "differs from the plan", "warned"]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Problem:
    """A failure shared by several hosts."""

    names: str
    state: str
    findings: tuple[Finding, ...]
    messages: tuple[tuple[str, str | None, tuple[str, ...]], ...]
    """Sentence, hint and evidence, phase by phase."""


@dataclass(frozen=True)
class WarningEntry:
    """One reason for an amber run, and its hosts."""

    kind: WarningKind
    text: str
    """Text of the first host where only numbers differ."""
    remedy: str | None
    names: str


@dataclass(frozen=True)
class Changes:
    """What changed since the last green run, on hosts with equal changes."""

    names: str
    before: str
    changes: tuple[tuple[str, str], ...]
    """Part and sentence."""
    unknown: tuple[str, ...]


def problems(summary: Summary) -> Iterable[Problem]:
    """Yield groups of failed hosts in the order of their first host."""
    for group in wording.wrong_groups(group_hosts(summary.hosts)):
        yield Problem(
            names=group.names,
            state=group.first.state,
            findings=group.first.findings,
            messages=tuple(wording.failures(group)),
        )


def warnings(summary: Summary) -> Iterable[WarningEntry]:
    """Yield host differences first, then deviations and warnings; texts that differ only in numbers appear once."""
    for status, check, messages in wording.host_comparison(summary):
        if status not in ("ok", "skip"):
            kind: WarningKind = "hosts cannot communicate" if check == NETWORK else "hosts differ"
            yield WarningEntry(kind, f"{check}: {messages}", None, "all hosts")
    alike: dict[str, WarningEntry] = {}
    names: dict[str, dict[str, None]] = {}
    for host in summary.hosts:
        for warning in _host_warnings(host):
            likeness = f"{warning.kind}: {_NUMBER.sub('N', warning.text.replace(host.name, 'HOST'))}"
            alike.setdefault(likeness, warning)
            names.setdefault(likeness, {})[host.name] = None
    for likeness, warning in sorted(alike.items(), key=lambda item: item[1].kind):
        yield replace(warning, names=fold_names(list(names[likeness])))


def _host_warnings(host: HostSummary) -> Iterable[WarningEntry]:
    yield from (WarningEntry("differs from the plan", text, None, host.name) for text in host.deviations)
    yield from (WarningEntry("warned", text, None, host.name) for text in host.warnings)
    for check in (check for check in host.checks if check.status == "warn"):
        where = f" on {check.device}" if check.device else ""
        yield WarningEntry("warned", f"{check.id}{where}: {check.reason or check.status}", check.remedy, host.name)


def changes(changed: Mapping[str, HostDifference]) -> Iterable[Changes]:
    """Yield changes, hosts with most changes first."""
    groups = sorted(grouped(changed.values()), key=lambda group: -len(group[1].changes))
    for names, entry in groups:
        yield Changes(
            names=names,
            before=entry.before or "",
            changes=tuple((change.part, sentence(change)) for change in entry.changes),
            unknown=entry.unknown,
        )

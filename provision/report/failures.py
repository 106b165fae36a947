"""Failures as lines of text: each cause once, with the names of all its hosts, in the lines available."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provision.core.models.records import Finding, Summary
from provision.report import wording
from provision.report.group import Group, named
from provision.report.layout import COLUMNS, clean, fitted, fold_names, shortened, split_at, width

INDENT = "  "
HOST_COMPARISON = "host comparison"
MOST_NAMES = 40
"""Maximum columns of host names where cause and hosts share a line."""


@dataclass(frozen=True)
class Detail:
    """Maximum lines of each part of a failure. The cause and the first sentence are always shown."""

    fix: int
    failures: int
    message: int
    evidence: int
    hint: int


WHOLE = Detail(fix=2, failures=4, message=4, evidence=4, hint=3)
"""Together with host name and finding at most 15 lines for one cause."""
DETAILS = (
    WHOLE,
    Detail(fix=2, failures=2, message=2, evidence=1, hint=1),
    Detail(fix=1, failures=1, message=1, evidence=0, hint=1),
    Detail(fix=1, failures=1, message=1, evidence=0, hint=0),
)
"""From most to least detailed."""


@dataclass(frozen=True)
class Failure:
    """One failure and the hosts that share it; without hosts, a failed host comparison."""

    hosts: tuple[str, ...]
    finding: Finding | None
    messages: tuple[tuple[str, str | None, tuple[str, ...]], ...]
    """Sentence, hint and evidence, the most important first."""


def failures(summary: Summary, groups: Iterable[Group]) -> list[Failure]:
    """Return failures in the order of the hosts, then failed host comparisons."""
    found = [
        Failure(
            hosts=tuple(host.name for host in group.hosts),
            finding=next(iter(group.first.findings), None),
            messages=tuple(wording.failures(group)),
        )
        for group in wording.wrong_groups(groups)
    ]
    odd = [check for check in summary.host_comparison if check.status in ("fail", "error")]
    shown = tuple((f"check {check.id}: {check.reason or check.status}", check.remedy, ()) for check in odd)
    return [*found, Failure((), None, shown)] if shown else found


def failure_lines(found: Sequence[Failure], run: Sequence[str], detail: Detail = WHOLE) -> list[str]:
    """Return a block of lines for each cause: hosts, finding, then the message of the phase or check."""
    lines: list[str] = []
    bodies: dict[tuple[str, ...], list[str]] = {}
    for failure in found:
        bodies.setdefault(tuple(_body(failure, detail)), []).extend(failure.hosts)
    for body, names in bodies.items():
        shown = short_names(names, run, COLUMNS - len(INDENT)) if names else HOST_COMPARISON
        lines += [INDENT + shown, *body]
    return lines


def within(found: Sequence[Failure], run: Sequence[str], most: int, *, rest: str) -> list[str]:
    """Return failures in at most `most` lines: first with less detail, then one line a cause, then a count and the command for the rest."""
    for detail in DETAILS:
        lines = failure_lines(found, run, detail)
        if len(lines) <= most:
            return lines
    alike: dict[str, tuple[str, list[str]]] = {}
    for failure in found:
        alike.setdefault(_sentence(failure), (_remedy(failure), []))[1].extend(failure.hosts)
    columns = COLUMNS - len(INDENT)
    items, lines = [], []
    for message, (remedy, names) in alike.items():
        items.append(f"{short_names(names, run, MOST_NAMES) if names else HOST_COMPARISON}: {message}")
        lines += [*shortened(items[-1], 1, columns=columns), *shortened(remedy, 1, first=INDENT, columns=columns)]
    if len(lines) > most:
        lines = fitted(items, most, columns=columns, rest=f": {rest}")
    return [INDENT + line for line in lines if line]


def short_names(names: Sequence[str], run: Sequence[str], columns: int) -> str:
    """Return host names in at most `columns` columns: all, or as many as fit and the number of the rest."""
    chosen = set(names)
    ordered = [name for name in run if name in chosen]
    shown = clean(named(ordered, run))
    if width(shown) <= columns:
        return shown
    shown = ""
    for kept in range(1, len(ordered)):
        longer = f"{clean(fold_names(ordered[:kept]))} and {len(ordered) - kept} more"
        if width(longer) > columns:
            break
        shown = longer
    if shown:
        return shown
    more = f"... and {len(ordered) - 1} more" if len(ordered) > 1 else "..."
    return split_at(clean(ordered[0]), columns - width(more))[0] + more


def _body(failure: Failure, detail: Detail) -> Iterable[str]:
    finding, first = failure.finding, INDENT * 2
    if finding:
        yield from shortened(f"cause: {finding.cause} ({finding.confidence:.0%} sure)", 1, first=first)
        for fix in finding.fix[:1]:
            yield from shortened(f"fix: {fix}", detail.fix, first=first)
    for message, hint, evidence in failure.messages[: detail.failures]:
        yield from shortened(message, detail.message, first=first)
        # The last lines of an output are those that say why.
        for line in evidence[max(len(evidence) - detail.evidence, 0) :]:
            yield from shortened(line, 1, first=f"{first}| ")
        if hint and detail.hint:
            yield from shortened(f"hint: {hint}", detail.hint, first=first)
    if len(failure.messages) > detail.failures:
        yield f"{first}and {len(failure.messages) - detail.failures} more: summary.md in the run's folder"


def _sentence(failure: Failure) -> str:
    """Return the cause and the first sentence."""
    cause = failure.finding.cause if failure.finding else None
    message = next((message for message, _, _ in failure.messages), None)
    return ": ".join(filter(None, (cause, message))) or "failed"


def _remedy(failure: Failure) -> str:
    """Return the fix of the finding, else the hint of the phase or check, else an empty text."""
    fixes = failure.finding.fix if failure.finding else ()
    hint = next((hint for _, hint, _ in failure.messages if hint), None)
    return f"fix: {fixes[0]}" if fixes else (f"hint: {hint}" if hint else "")

"""What failed and why, as lines: one cause once, under the names of all hosts that it concerns, in as many lines as there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from provision.core.models.records import Finding, Summary
from provision.report import wording
from provision.report.group import named
from provision.report.layout import COLUMNS, clean, fitted, fold_names, shortened, split_at, width

INDENT = "  "
HOST_COMPARISON = "host comparison"
MOST_NAMES = 40
"""Columns of the hosts' names where cause and hosts share a line."""
REST = ": ./firstlight logs show --full"


@dataclass(frozen=True)
class Detail:
    """How many lines each part of a failure takes; no cause and no first sentence is ever left out."""

    fix: int
    failures: int
    said: int
    evidence: int
    hint: int


WHOLE = Detail(fix=2, failures=4, said=4, evidence=4, hint=3)
"""With the host's name and the doctor's finding these make 15 lines of one cause."""
DETAILS = (
    WHOLE,
    Detail(fix=2, failures=2, said=2, evidence=1, hint=1),
    Detail(fix=1, failures=1, said=1, evidence=0, hint=1),
    Detail(fix=1, failures=1, said=1, evidence=0, hint=0),
)
"""From the most to the least that is told of each failure."""


@dataclass(frozen=True)
class Failure:
    """What failed alike on some hosts; without a host it is what their checks say side by side."""

    hosts: tuple[str, ...]
    finding: Finding | None
    told: tuple[tuple[str, str | None, tuple[str, ...]], ...]
    """Sentence, hint and evidence, the first one first."""


def failures(summary: Summary) -> list[Failure]:
    """What failed, in the order of the hosts, then what differs between hosts where nothing may."""
    found = [
        Failure(
            hosts=tuple(host.name for host in group.hosts),
            finding=next(iter(group.first.findings), None),
            told=tuple(wording.failures(group)),
        )
        for group in wording.wrong_groups(summary)
    ]
    odd = [check for check in summary.host_comparison if check.status in ("fail", "error")]
    told = tuple((f"check {check.id}: {check.reason or check.status}", check.remedy, ()) for check in odd)
    return [*found, Failure((), None, told)] if told else found


def failure_lines(found: Sequence[Failure], run: Sequence[str], detail: Detail = WHOLE) -> list[str]:
    """A block of lines for each cause: the hosts, the doctor's finding, then what the phase or the check said."""
    lines: list[str] = []
    for names, body in _alike(found, detail):
        told = short_names(names, run, COLUMNS - len(INDENT)) if names else HOST_COMPARISON
        lines += [INDENT + told, *body]
    return lines


def within(found: Sequence[Failure], run: Sequence[str], most: int) -> list[str]:
    """The same in no more than `most` lines: with less of each failure, then a line a cause, then a count of the rest."""
    for detail in DETAILS:
        lines = failure_lines(found, run, detail)
        if len(lines) <= most:
            return lines
    alike: dict[str, tuple[str, list[str]]] = {}
    for failure in found:
        alike.setdefault(_sentence(failure), (_remedy(failure), []))[1].extend(failure.hosts)
    columns = COLUMNS - len(INDENT)
    items, lines = [], []
    for said, (remedy, names) in alike.items():
        items.append(f"{short_names(names, run, MOST_NAMES) if names else HOST_COMPARISON}: {said}")
        lines += [*shortened(items[-1], 1, columns=columns), *shortened(remedy, 1, first=INDENT, columns=columns)]
    if len(lines) > most:
        lines = fitted(items, most, columns=columns, rest=REST)
    return [INDENT + line for line in lines if line]


def short_names(names: Sequence[str], run: Sequence[str], columns: int) -> str:
    """Hosts of a run in no more columns than these: all of them, or as many as fit and how many more."""
    chosen = set(names)
    ordered = [name for name in run if name in chosen]
    told = clean(named(ordered, run))
    if width(told) <= columns:
        return told
    told = ""
    for kept in range(1, len(ordered)):
        longer = f"{clean(fold_names(ordered[:kept]))} and {len(ordered) - kept} more"
        if width(longer) > columns:
            break
        told = longer
    if told:
        return told
    more = f"... and {len(ordered) - 1} more" if len(ordered) > 1 else "..."
    return split_at(clean(ordered[0]), columns - width(more))[0] + more


def _alike(found: Sequence[Failure], detail: Detail) -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """Bodies that read the same, with the names of all hosts that they concern."""
    bodies: dict[tuple[str, ...], list[str]] = {}
    for failure in found:
        bodies.setdefault(tuple(_body(failure, detail)), []).extend(failure.hosts)
    for body, names in bodies.items():
        yield names, body


def _body(failure: Failure, detail: Detail) -> Iterable[str]:
    finding, first = failure.finding, INDENT * 2
    if finding:
        yield from shortened(f"cause: {finding.cause} ({finding.confidence:.0%} sure)", 1, first=first)
        for fix in finding.fix[:1]:
            yield from shortened(f"fix: {fix}", detail.fix, first=first)
    for said, hint, evidence in failure.told[: detail.failures]:
        yield from shortened(said, detail.said, first=first)
        for line in evidence[: detail.evidence]:
            yield from shortened(line, 1, first=f"{first}| ")
        if hint and detail.hint:
            yield from shortened(f"hint: {hint}", detail.hint, first=first)
    if len(failure.told) > detail.failures:
        yield f"{first}and {len(failure.told) - detail.failures} more: summary.md in the run's folder"


def _sentence(failure: Failure) -> str:
    """The cause and the first sentence."""
    cause = failure.finding.cause if failure.finding else None
    said = next((said for said, _, _ in failure.told), None)
    return ": ".join(filter(None, (cause, said))) or "failed"


def _remedy(failure: Failure) -> str:
    """The doctor's, else the one of the phase or the check; empty where there is none."""
    fixes = failure.finding.fix if failure.finding else ()
    hint = next((hint for _, hint, _ in failure.told if hint), None)
    return f"fix: {fixes[0]}" if fixes else (f"hint: {hint}" if hint else "")

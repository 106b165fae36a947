"""The trace of one class for `--explain`: verdicts on the host, on refused candidates, and on the chosen one.

Sources are numbered and listed at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from provision.core.models.stack import Reason, Resolution
from provision.phases.plan.evaluation import HOST

_SIGNS = {"accept": "+", "reject": "x", "warn": "!"}


class Sources:
    """Numbers for sources, in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, source: str) -> int:
        return self._numbers.setdefault(source, len(self._numbers) + 1)

    def lines(self) -> list[str]:
        listed = [f"    ({number}) {source}" for source, number in self._numbers.items()]
        return ["", "  sources", *listed] if listed else []


def render_trace(resolution: Resolution) -> list[str]:
    """Return every verdict of the plan as lines, with its rule, facts and source."""
    sources = Sources()
    lines = ["", "  trace (+ accepted, x refused, ! warning, ? assumed)"]
    of_host = [reason for reason in resolution.reasons if reason.candidate == HOST]
    if of_host:
        lines += ["", "    Host:", *verdicts(of_host, sources)]
    lines += _refused(resolution, sources)
    if resolution.stack is not None:
        chosen = next(candidate.id for candidate in resolution.candidates if candidate.accepted)
        of_chosen = [
            reason for reason in resolution.reasons if reason.candidate == chosen and reason.verdict != "reject"
        ]
        lines += ["", f"    Chosen: {chosen}", *verdicts(of_chosen, sources)]
    if resolution.assumptions:
        lines += ["", "    Assumed, since the facts are unknown:"]
        lines += [f"      ? {text}" for text in resolution.assumptions]
    later = [candidate.id for candidate in resolution.candidates if candidate.accepted][1:]
    if later:
        lines += ["", f"    Next candidates, if its packages cannot be resolved: {', '.join(later)}"]
    if resolution.nearest:
        lines += ["", f"    No combination of versions fits. Possible: {resolution.nearest.text}"]
    return [*lines, *sources.lines()]


def verdicts(reasons: Iterable[Reason], sources: Sources) -> Iterator[str]:
    """Yield two lines for each verdict: the text; rule, facts and source."""
    for reason in reasons:
        yield f"      {_SIGNS[reason.verdict]} {reason.text}"
        facts = ", ".join(f"{name} = {_value(value)}" for name, value in reason.facts.items())
        named = f" (source {sources.number(reason.source)})" if reason.source else ""
        yield f"          {reason.rule}{f': {facts}' if facts else ''}{named}"


def _refused(resolution: Resolution, sources: Sources) -> list[str]:
    """Return the refused candidates in their order; neighbours with equal reasons share a block."""
    order = {candidate.id: candidate.rank for candidate in resolution.candidates}
    by_candidate: dict[str, list[Reason]] = {}
    for reason in sorted(resolution.reasons, key=lambda reason: order.get(reason.candidate, 0)):
        if reason.verdict == "reject" and reason.candidate != HOST:
            by_candidate.setdefault(reason.candidate, []).append(reason)
    lines: list[str] = []
    for _, group in groupby(by_candidate.items(), key=lambda item: [(reason.rule, reason.text) for reason in item[1]]):
        found = list(group)
        lines += ["", f"    {_names([name for name, _ in found])} refused:", *verdicts(found[0][1], sources)]
    return lines


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} candidates)"


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)

"""When each phase of a host ran, as shares of the length of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provision.core.models.records import PHASES, PhaseResult
from provision.report.layout import duration
from provision.report.run_files import seconds_between

NARROWEST = 0.4
"""Percent of the width: a span of an instant is still seen."""


@dataclass(frozen=True)
class Span:
    """One stretch of work; `left` and `width` in percent of the run."""

    phase: str
    status: str
    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Clock:
    """The length of a run, and when each phase ended for each host, in seconds from its start."""

    seconds: float
    results: Mapping[tuple[str, str], float]
    """Host and phase to its end."""


def read_clock(events: Iterable[Mapping[str, Any]], *, started_at: str, seconds: float) -> Clock:
    """Read the times of a run's events; malformed times are ignored."""
    results: dict[tuple[str, str], float] = {}
    for event in events:
        end = seconds_between(started_at, str(event.get("at")))
        if end is not None and event.get("kind") == "result" and event.get("phase") in PHASES:
            results[str(event.get("host")), str(event.get("phase"))] = end
    return Clock(max((seconds, *results.values())), results)


def host_spans(clock: Clock, results: Iterable[PhaseResult]) -> tuple[Span, ...]:
    """Return spans of one host's phases, without skipped phases and phases without a recorded end."""
    spans = []
    for result in results:
        end = clock.results.get((result.host, result.phase))
        if end is None or result.status == "skipped":
            continue
        text = f"{result.phase} {result.status}, {duration(result.seconds)}"
        spans.append(_span(clock, end, result.seconds, phase=result.phase, status=result.status, text=text))
    return tuple(spans)


def _span(clock: Clock, end: float, length: float, *, phase: str, status: str, text: str) -> Span:
    whole = clock.seconds or 1.0
    right = min(max(end / whole, 0.0), 1.0) * 100
    left = min(max((end - length) / whole * 100, 0.0), right)
    width = max(right - left, NARROWEST)
    return Span(phase, status, round(min(left, 100 - width), 2), round(width, 2), text)

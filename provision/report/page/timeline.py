"""When which phase worked: spans of the run's time, as shares of its length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provision.core.models.phase_names import PHASES
from provision.core.models.records import PhaseResult
from provision.report.layout import duration
from provision.report.run_files import seconds_between

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
"""Readable steps of the time axis, in seconds."""
MOST_TICKS = 8
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
class Lane:
    """One phase over the whole fleet."""

    phase: str
    spans: tuple[Span, ...]
    seconds: str


@dataclass(frozen=True)
class Timeline:
    """The run's time axis: `seconds` long, ticks as percent and label, a lane a phase."""

    seconds: float
    ticks: tuple[tuple[float, str], ...]
    lanes: tuple[Lane, ...]


@dataclass(frozen=True)
class Clock:
    """What was written down with its time: when each phase ended, for all hosts and for each one.

    Ends are seconds from the start of the run.
    """

    seconds: float
    phases: tuple[tuple[str, float, float], ...]
    """Phase, end, length."""
    results: Mapping[tuple[str, str], float]
    """Host and phase to its end."""


def read_clock(events: Iterable[Mapping[str, Any]], *, started_at: str, seconds: float) -> Clock:
    """Read the times of a run's events; malformed times are ignored."""
    phases: list[tuple[str, float, float]] = []
    results: dict[tuple[str, str], float] = {}
    for event in events:
        end = seconds_between(started_at, str(event.get("at")))
        phase, length = event.get("phase"), event.get("seconds")
        if end is None or phase not in PHASES:
            continue
        if event.get("kind") == "phase" and isinstance(length, (int, float)):
            phases.append((str(phase), end, float(length)))
        elif event.get("kind") == "result":
            results[str(event.get("host")), str(phase)] = end
    longest = max((seconds, *(end for _, end, _ in phases), *results.values()))
    return Clock(longest, tuple(phases), results)


def timeline(clock: Clock) -> Timeline:
    """Return lanes in the order of the phases; phases of negligible duration have no span."""
    lanes = []
    for phase in PHASES:
        worked = [(end, length) for name, end, length in clock.phases if name == phase]
        if not worked:
            continue
        spans = tuple(
            _span(clock, end, length, phase=phase, status="ok", text=f"{phase}, {duration(length)}")
            for end, length in worked
            if length >= clock.seconds * NARROWEST / 400
        )
        lanes.append(Lane(phase, spans, duration(sum(length for _, length in worked))))
    return Timeline(clock.seconds, _ticks(clock.seconds), tuple(lanes))


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


def _ticks(seconds: float) -> tuple[tuple[float, str], ...]:
    if seconds <= 0:
        return ()
    step = next((each for each in TICKS if seconds / each <= MOST_TICKS), TICKS[-1])
    count = min(int(seconds / step), MOST_TICKS * 4)
    return tuple((round(100 * index * step / seconds, 2), _clock(index * step)) for index in range(count + 1))


def _clock(seconds: float) -> str:
    """`0.5 s`, `45 s`, `2:30`, `1:05:00`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"

"""When which room worked: spans of the run's time, as shares of its length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from provision.core.models.records import ROOMS, RoomResult
from provision.report.layout import duration
from provision.report.run_files import seconds_between

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
"""Steps of the time axis that a person reads at a glance, in seconds."""
MOST_TICKS = 8
NARROWEST = 0.4
"""Percent of the width: a span of an instant is still seen."""


@dataclass(frozen=True)
class Span:
    """One stretch of work; `left` and `width` in percent of the run."""

    room: str
    status: str
    left: float
    width: float
    text: str


@dataclass(frozen=True)
class Lane:
    """One room over the whole fleet."""

    room: str
    spans: tuple[Span, ...]
    seconds: str


@dataclass(frozen=True)
class Timeline:
    """The run's time axis: `seconds` long, ticks as percent and label, a lane a room."""

    seconds: float
    ticks: tuple[tuple[float, str], ...]
    lanes: tuple[Lane, ...]


@dataclass(frozen=True)
class Clock:
    """What was written down with its time: when each room ended, for all hosts and for each one.

    Ends are seconds from the start of the run.
    """

    seconds: float
    rooms: tuple[tuple[str, float, float], ...]
    """Room, end, length."""
    results: Mapping[tuple[str, str], float]
    """Host and room to its end."""


def read_clock(events: Iterable[Mapping[str, Any]], *, started_at: str, seconds: float) -> Clock:
    """The times in a run's events; what cannot be read as a time is passed over."""
    rooms: list[tuple[str, float, float]] = []
    results: dict[tuple[str, str], float] = {}
    for event in events:
        end = seconds_between(started_at, str(event.get("at")))
        room, length = event.get("room"), event.get("seconds")
        if end is None or room not in ROOMS:
            continue
        if event.get("kind") == "room" and isinstance(length, (int, float)):
            rooms.append((str(room), end, float(length)))
        elif event.get("kind") == "result":
            results[str(event.get("host")), str(room)] = end
    longest = max((seconds, *(end for _, end, _ in rooms), *results.values()))
    return Clock(longest, tuple(rooms), results)


def timeline(clock: Clock) -> Timeline:
    """Lanes in the order of the rooms; a room that did nothing for an instant has no span."""
    lanes = []
    for room in ROOMS:
        worked = [(end, length) for name, end, length in clock.rooms if name == room]
        if not worked:
            continue
        spans = tuple(
            _span(clock, end, length, room=room, status="ok", text=f"{room}, {duration(length)}")
            for end, length in worked
            if length >= clock.seconds * NARROWEST / 400
        )
        lanes.append(Lane(room, spans, duration(sum(length for _, length in worked))))
    return Timeline(clock.seconds, _ticks(clock.seconds), tuple(lanes))


def host_spans(clock: Clock, results: Iterable[RoomResult]) -> tuple[Span, ...]:
    """One host's way through the rooms; a room without a time of its own, and one that was skipped, has no span."""
    spans = []
    for result in results:
        end = clock.results.get((result.host, result.room))
        if end is None or result.status == "skipped":
            continue
        text = f"{result.room} {result.status}, {duration(result.seconds)}"
        spans.append(_span(clock, end, result.seconds, room=result.room, status=result.status, text=text))
    return tuple(spans)


def _span(clock: Clock, end: float, length: float, *, room: str, status: str, text: str) -> Span:
    whole = clock.seconds or 1.0
    right = min(max(end / whole, 0.0), 1.0) * 100
    left = min(max((end - length) / whole * 100, 0.0), right)
    width = max(right - left, NARROWEST)
    return Span(room, status, round(min(left, 100 - width), 2), round(width, 2), text)


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

"""Moments of a run at which a fault can be made, read from the files that the run writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Lines = Sequence[Mapping[str, Any]]
Condition = Callable[[Lines], bool]

SWITCHED = ("Switch to the release and write the service's files", "Switch back to an earlier release")
"""Tasks of the playbooks `serve` and `rollback` after which another release is the current one."""


@dataclass(frozen=True)
class Moment:
    """A part of a run. A fault is made there at a time that is drawn between its first second and its `longest_s`."""

    begins: Condition
    ends: Condition
    longest_s: float
    """What the part took on an idle machine of two cores, rounded up; a shorter one ends the waiting."""


def seen(**fields: Any) -> Condition:
    """Return a condition: a line has these values."""
    return lambda lines: any(all(line.get(key) == value for key, value in fields.items()) for line in lines)


def either(*conditions: Condition) -> Condition:
    """Return a condition: one of these holds."""
    return lambda lines: any(condition(lines) for condition in conditions)


_STAGED = {"kind": "phase", "phase": "stage"}


def _after_stage(**fields: Any) -> Condition:
    """Return a condition: a line after the end of `stage` has these values."""

    def condition(lines: Lines) -> bool:
        staged = next((place for place, line in enumerate(lines) if seen(**_STAGED)([line])), len(lines))
        return seen(**fields)(lines[staged + 1 :])

    return condition


_INSTALLS = _after_stage(kind="enter", phase="install")
_BUILT = _after_stage(kind="phase", phase="install")
_SERVED = seen(kind="result", phase="serve")
_SWITCHED = either(*(seen(kind="task", task=task) for task in SWITCHED))

MOMENTS = {
    "probe": Moment(seen(kind="enter", phase="probe"), seen(kind="phase", phase="probe"), 0.6),
    "stage": Moment(seen(kind="enter", phase="stage"), seen(**_STAGED), 0.3),
    "packages in the background": Moment(seen(kind="locked"), seen(kind="packages"), 8.0),
    "upload in the background": Moment(seen(kind="locked"), either(seen(kind="background-upload"), _BUILT), 4.0),
    "between stage and install": Moment(seen(**_STAGED), seen(kind="sent"), 0.5),
    "sending": Moment(_INSTALLS, seen(kind="sent"), 5.0),
    "arrival": Moment(seen(kind="sent"), _BUILT, 2.0),
    "install": Moment(_INSTALLS, _BUILT, 30.0),
    "verify": Moment(_after_stage(kind="enter", phase="verify"), seen(kind="enter", phase="serve"), 15.0),
    "switch": Moment(seen(kind="enter", phase="serve"), _SWITCHED, 4.0),
    "start": Moment(_SWITCHED, _SERVED, 30.0),
    "end": Moment(_SERVED, lambda _: False, 0.4),
}


def read(run: Path) -> list[dict[str, Any]]:
    """Return the events and tasks of a run so far, in the order of their times; tasks are lines of the kind `task`."""
    lines = [
        *_complete(run / "events.jsonl"),
        *({"kind": "task", **line} for line in _complete(run / "install" / "tasks.jsonl")),
    ]
    return sorted(lines, key=lambda line: str(line.get("at", "")))


def _complete(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file; the last one may be half written."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def phase_of(lines: Lines) -> str:
    """Return the phase that a run is in by its events: the last one that was entered, with `after` where it has ended."""
    phase = "before the first phase"
    for line in lines:
        if line.get("kind") == "enter":
            phase = str(line["phase"])
        elif line.get("kind") == "phase":
            phase = f"after {line['phase']}"
    return phase

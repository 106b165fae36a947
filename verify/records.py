"""What a check is, and what it answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verify.serving.service import Service
from verify.tables import table

Status = Literal["ok", "warn", "fail", "skip", "error"]
Level = Literal["quick", "standard", "full"]

LEVELS: tuple[Level, ...] = ("quick", "standard", "full")
"""Each level runs its own checks and those of the levels before it."""

SEVERITY: tuple[Status, ...] = ("skip", "ok", "warn", "fail", "error")
"""From best to worst. An error is worst of all: unknown is never ok."""

EXIT_CODES: Mapping[Status, int] = {"ok": 0, "skip": 0, "warn": 1, "fail": 2, "error": 3}
USAGE_EXIT = 64
INTERRUPTED_EXIT = 130

NEEDS = "needs "
"""What the reason of a check begins with that was not run, because a check that it needs failed."""

SERVING = "serving"
"""The family of the checks of what serves."""
FRAME = "frame.run"
"""The id under which a run that could not be done is reported."""
DRAIN = "frame.drain"
"""The id under which it is reported how the service came back that was stopped for the checks."""
FLEET = "fleet.alike"
"""The id under which it is reported how hosts differ from one another."""
NETWORK = "fleet.network"
"""The id under which it is reported through which interface hosts exchange numbers."""


@dataclass(frozen=True)
class Figure:
    """A number that was measured. `floor` and `ceiling` are the thresholds it was judged by, `source` where they stand."""

    name: str
    value: float | None
    unit: str
    floor: float | None = None
    ceiling: float | None = None
    source: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; a number that JSON cannot hold (infinity, NaN) is null."""
        numbers = {"value": self.value, "floor": self.floor, "ceiling": self.ceiling}
        finite = {key: number if number is None or math.isfinite(number) else None for key, number in numbers.items()}
        return {"name": self.name, "unit": self.unit, "source": self.source, **finite}


@dataclass(frozen=True)
class CheckResult:
    """A check's answer. `evidence` holds the call or command and a raw excerpt; `remedy` the next thing to do."""

    status: Status
    reason: str
    figures: tuple[Figure, ...] = ()
    evidence: Any = None
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "status": self.status,
            "reason": self.reason,
            "figures": [figure.as_json() for figure in self.figures],
            "evidence": self.evidence,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class CheckContext:
    """All that a check may know of the run. Nothing in it touches a device."""

    level: Level = "standard"
    prefix: Path | None = None
    lock: Path | None = None
    level_overrides: Mapping[str, Level] = field(default_factory=dict)
    """Checks by id that look more deeply than this run does."""
    expect: Mapping[str, Any] = field(default_factory=dict)
    """`stack`: the planned Stack; `gpus`: how many the host should have, or that as `count` with `pci` and `source`;
    `serve_follows`: whether the service is started anew after the checks."""
    faults: frozenset[str] = frozenset()
    """The injected faults that hold for this check."""
    torch_problem: str | None = None
    """Why torch could not be imported; null when it was."""
    devices_problem: str | None = None
    """Why the devices are not known; null when they are, in `devices`."""
    service: Service | None = None
    """What serves from the installation that is checked; null where it serves nothing."""
    devices: tuple[str, ...] = ()
    started: float = 0.0
    """Seconds since 1970 when the run began."""
    device: str | None = None
    """`cpu`, `cuda:0` ...: the one that this call shall check, for checks that run on each device."""

    @property
    def stack(self) -> Mapping[str, Any]:
        """The planned Stack, empty when none was given."""
        stack: Mapping[str, Any] = self.expect.get("stack") or {}
        return stack

    @property
    def variant(self) -> str | None:
        """What the Stack computes with: the variant of vLLM's build, else torch's; null when no Stack was given."""
        build = self.stack.get("vllm") or self.stack.get("torch") or {}
        variant: str | None = build.get("variant")
        return variant

    def includes(self, level: Level) -> bool:
        """Whether this run includes a level."""
        return LEVELS.index(level) <= LEVELS.index(self.level)


@dataclass(frozen=True)
class Check:
    """One statement that can be verified on a host."""

    id: str
    """`family.name`."""
    description: str
    """One sentence."""
    run: Callable[[CheckContext], CheckResult]
    level: Level = "quick"
    requires: tuple[str, ...] = ()
    """Ids of other checks, its premises: where one fails, this one is skipped as `needs ID`. None of them stands alone."""
    preconditions: tuple[Callable[[CheckContext], CheckResult | None], ...] = ()
    """What it needs to be about anything, as in verify/preconditions.py; the first outcome that is one is the check's."""
    each_device: bool = False
    all_devices: bool = False
    """Whether one call works on all devices: it finds them in `Context.devices`."""
    faults: tuple[str, ...] = ()
    """The injected faults that this check must notice, beside a crash and a hang."""
    deadline_s: float = 60.0
    exclusive: bool = False
    """Whether it measures what other work would falsify: it then runs when no other check does."""
    lasting: bool = False
    """Whether its warning holds on, where a later run cannot measure, until it is `ok` again."""
    aggregate: Callable[[Mapping[str, Mapping[str, Any]]], CheckResult | None] | None = None
    """Judges the records of all devices together, by device, where there are two or more; null has nothing to say."""

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]


def worst_status(statuses: list[Status]) -> Status:
    """The status of a whole run: that of its worst check, `error` when nothing ran at all."""
    return max(statuses, key=SEVERITY.index, default="error")


def as_record(
    id_: str,
    host: str | None,
    device: str | None,
    answer: CheckResult | Mapping[str, Any],
    seconds: float,
    *,
    level: Level | None = None,
) -> dict[str, Any]:
    """A check's answer as it stands in a document; a mapping is an outcome's `as_json`.

    `level` is how deeply it looked, null where that means nothing. `found` is null: a record of an earlier run says there when that
    was, as verify/last_run.py writes it.
    """
    outcome = answer.as_json() if isinstance(answer, CheckResult) else answer
    return {
        "id": id_,
        "family": id_.partition(".")[0],
        "status": outcome["status"],
        "host": host,
        "device": device,
        "reason": outcome["reason"],
        "figures": outcome["figures"],
        "evidence": outcome["evidence"],
        "remedy": outcome["remedy"],
        "seconds": round(seconds, 3),
        "level": level,
        "found": None,
    }


def fold_skips(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records as they are told: checks that are skipped for one reason stand in one row.

    It is a row a family, one for all that need the same other check (`needs ID`), and one for all that a host of its kind cannot have.
    """
    skips: dict[Any, list[str]] = {}
    for record in records:
        if record["status"] == "skip":
            skips.setdefault(record["host"], []).append(record["reason"])
    absent = {host: inapplicable(reasons) for host, reasons in skips.items()}
    alike: dict[Any, list[Mapping[str, Any]]] = {}
    for place, record in enumerate(records):
        if record["status"] != "skip":
            alike[place] = [record]
            continue
        host, reason, where = record["host"], record["reason"], (record["family"], record["device"])
        if reason in absent[host][0]:
            reason, where = absent[host][1], (None, None)
        elif reason.startswith(NEEDS):
            where = (None, None)
        alike.setdefault((host, reason, *where), []).append(record)
    return [dict(group[0]) if len(group) == 1 else _folded(group, key[1]) for key, group in alike.items()]


def inapplicable(reasons: Iterable[str]) -> tuple[frozenset[str], str]:
    """Which reasons for skipped checks of one host say only of what kind it is, and all of them as one: `do not apply: no GPU`."""
    known, said = table("inapplicable"), set(reasons)
    lacking: dict[str, set[str]] = {}
    for kind in () if known["unless"] in said else known["kind"]:
        if found := {reason for reason in said if any(re.fullmatch(each, reason) for each in kind["reasons"])}:
            lacking[kind["lacks"]] = found
    if names := [kind for kind, parts in known["whole"].items() if kind in lacking or lacking.keys() >= set(parts)]:
        return frozenset().union(*lacking.values()), f"do not apply: no {names[0]}"
    return frozenset().union(*lacking.values()), f"do not apply: {', '.join(f'no {name}' for name in lacking)}"


def _folded(group: Sequence[Mapping[str, Any]], reason: str) -> dict[str, Any]:
    first, ids = group[0], list(dict.fromkeys(record["id"] for record in group))
    if len({record["family"] for record in group}) > 1 or reason.startswith(NEEDS):
        counts = Counter(id_.partition(".")[0] for id_ in ids)
        told = ", ".join(f"{family} {count}" for family, count in counts.items())
        return {**first, "id": f"{len(ids)} checks", "device": None, "reason": f"{reason} ({told})"}
    names = ", ".join(id_.partition(".")[2] for id_ in ids)
    return {**first, "id": f"{first['family']}: {len(ids)} checks", "reason": f"{reason} ({names})"}

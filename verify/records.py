"""Check, its context, its result, and the records of a run."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from verify.serving.service import Service
from verify.tables import table

Status = Literal["ok", "warn", "fail", "skip", "error"]
Level = Literal["quick", "standard", "full", "burn-in"]

LEVELS: tuple[Level, ...] = ("quick", "standard", "full", "burn-in")
"""Each level runs its own checks and those of the levels before it."""
BURN_IN: Level = "burn-in"
"""The level that repeats its checks for hours."""
BURN_IN_HOURS = 24.0
"""Its length if none is requested."""

SEVERITY: tuple[Status, ...] = ("skip", "ok", "warn", "fail", "error")
"""From best to worst. `error` is the worst: an unknown state never counts as ok."""

EXIT_CODES: Mapping[Status, int] = {"ok": 0, "skip": 0, "warn": 1, "fail": 2, "error": 3}
USAGE_EXIT = 64
INTERRUPTED_EXIT = 130

NEEDS = "needs "
"""Prefix of the reason of a check that was skipped because a check it requires failed."""
BUSY = "which would distort the measurement"
"""End of the reason of a check that was skipped because other work uses its device."""

SHOWN = 5
"""Observations of a check that its reason names; its evidence has all of them."""

SERVING = "serving"
"""Family of the checks of the running service."""
FRAME = "frame.run"
"""Id of the record of a run that could not be completed."""
DRAIN = "frame.drain"
"""Id of the record of the service that was stopped for the checks and started again."""
CONTAINER = "frame.container"
"""Id of the record of the checks that ran in the service's container."""
FLEET = "fleet.alike"
"""Id of the record that compares the hosts of a fleet."""
NETWORK = "fleet.network"
"""Id of the record of the interface through which hosts communicate."""
STARTS = "fleet.starts"
"""Id of the record that compares the starts of services on equal hosts."""
LEARNED = "speed.learned"
"""Id of the record that compares a host with what equal hosts measured before."""


@dataclass(frozen=True)
class Figure:
    """A measured number. `floor` and `ceiling` are its thresholds, `source` is where they are documented."""

    name: str
    value: float | None
    unit: str
    floor: float | None = None
    ceiling: float | None = None
    source: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values; infinity and NaN, which JSON cannot hold, become None."""
        numbers = {"value": self.value, "floor": self.floor, "ceiling": self.ceiling}
        finite = {key: number if number is None or math.isfinite(number) else None for key, number in numbers.items()}
        return {"name": self.name, "unit": self.unit, "source": self.source, **finite}


@dataclass(frozen=True)
class CheckResult:
    """Result of a check. `evidence` holds the call or command and a raw excerpt, `remedy` the next step."""

    status: Status
    reason: str
    figures: tuple[Figure, ...] = ()
    evidence: Any = None
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**vars(self), "figures": [figure.as_json() for figure in self.figures]}


class Observation(NamedTuple):
    """One thing that a check found."""

    status: Status
    text: str
    remedy: str | None = None


def combine(
    observations: Iterable[Observation], healthy: str, figures: tuple[Figure, ...] = (), evidence: Any = None
) -> CheckResult:
    """Combine observations into one result; the worst status wins, `healthy` is the text without any."""
    found = sorted(observations, key=lambda entry: -SEVERITY.index(entry.status))
    if not found:
        return CheckResult("ok", healthy, figures, evidence)
    worst = found[0].status
    remedy = next((entry.remedy for entry in found if entry.remedy and entry.status == worst), None)
    text = first_few([*dict.fromkeys(entry.text for entry in found)], SHOWN)
    return CheckResult(worst, f"{healthy}; {text}" if worst == "ok" else text, figures, evidence, remedy)


@dataclass(frozen=True)
class CheckContext:
    """What a check knows about the run. Reading it touches no device."""

    level: Level = "standard"
    prefix: Path | None = None
    lock: Path | None = None
    level_overrides: Mapping[str, Level] = field(default_factory=dict)
    """Levels of checks that run at another level than the rest, by id."""
    expect: Mapping[str, Any] = field(default_factory=dict)
    """`stack`: the planned Stack. `gpus`: the expected number of GPUs, or an object with `count`, `pci` and `source`.
    `advisories`: the security advisories whose conditions hold on this host, accepted ones marked.
    `container`: the kind of container that this host is. `serve_follows`: whether the service is restarted after the checks.
    """
    faults: frozenset[str] = frozenset()
    """Faults injected into this check."""
    torch_problem: str | None = None
    """Why torch could not be imported; None if it was."""
    devices_problem: str | None = None
    """Why the devices could not be listed; None if they are in `devices`."""
    service: Service | None = None
    """The service of the checked installation; None if there is none."""
    devices: tuple[str, ...] = ()
    started: float = 0.0
    """Start of the run, in seconds since 1970."""
    progress: Path | None = None
    """File that says which check runs, until the run ends."""
    round: str = ""
    """What it says before the check."""
    device: str | None = None
    """The device to check (`cpu`, `cuda:0` ...), for checks that run once per device."""

    @property
    def stack(self) -> Mapping[str, Any]:
        """The planned Stack; empty if none is given."""
        stack: Mapping[str, Any] = self.expect.get("stack") or {}
        return stack

    @property
    def variant(self) -> str | None:
        """Variant of the planned vLLM build, otherwise of torch's; None without a Stack."""
        build = self.stack.get("vllm") or self.stack.get("torch") or {}
        variant: str | None = build.get("variant")
        return variant

    @property
    def gpus(self) -> tuple[str, ...]:
        """The devices that are GPUs."""
        return tuple(device for device in self.devices if device != "cpu")

    def includes(self, level: Level) -> bool:
        """Return whether this run includes a level."""
        return LEVELS.index(level) <= LEVELS.index(self.level)


@dataclass(frozen=True)
class Check:
    """One statement that can be verified on a host."""

    id: str
    """`family.name`."""
    description: str
    """One sentence that states what the check verifies."""
    run: Callable[[CheckContext], CheckResult]
    level: Level = "quick"
    requires: tuple[str, ...] = ()
    """Ids of checks that must pass first; otherwise this one is skipped as `needs ID`. None of them may be exclusive."""
    preconditions: tuple[Callable[[CheckContext], CheckResult | None], ...] = ()
    """Conditions under which the check applies, see verify/runner/registry.py. The first result other than None is the check's."""
    each_device: bool = False
    all_devices: bool = False
    """Whether one call covers all devices, which are in `CheckContext.devices`."""
    faults: tuple[str, ...] = ()
    """Faults that this check must detect, in addition to a crash and a hang."""
    deadline_s: float = 60.0
    exclusive: bool = False
    """Whether other work would distort the measurement; the check then runs while no other one does."""
    lasting: bool = False
    """Whether a warning stays in the results until a later run measures again and passes."""
    aggregate: Callable[[Mapping[str, Mapping[str, Any]]], CheckResult | None] | None = None
    """Compare the records of two or more devices, by device; None means that there is no statement to make."""

    @property
    def family(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    def compare_devices(self, records: Iterable[tuple[str, Mapping[str, Any]]]) -> CheckResult | None:
        """Compare the records of this check, each given with the name of its device; None with fewer than two measurements."""
        answers = {
            name: record
            for name, record in records
            if record["id"] == self.id and record["device"] and record["status"] in ("ok", "warn")
        }
        return self.aggregate(answers) if self.aggregate and len(answers) > 1 else None


def first_few(texts: Sequence[str], count: int, *, separator: str = "; ", more: str = " and") -> str:
    """Join the first `count` texts, followed by how many more there are: `a; b and 3 more`."""
    rest = f"{more} {len(texts) - count} more" if len(texts) > count else ""
    return separator.join(texts[:count]) + rest


def worst_status(statuses: list[Status]) -> Status:
    """Return the worst status, `error` if there is none."""
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
    """Return the record of one result, which may be in its JSON form.

    `host` is None for a statement about several hosts, `device` for the host as a whole, `level` where levels do not apply.
    verify/runner/last_run.py sets `found` in records taken over from an earlier run.
    """
    outcome = answer.as_json() if isinstance(answer, CheckResult) else answer
    about = {"id": id_, "family": id_.partition(".")[0], "status": outcome["status"], "host": host, "device": device}
    return {**about, **outcome, "seconds": round(seconds, 3), "level": level, "found": None}


def inapplicable(reasons: Iterable[str]) -> tuple[frozenset[str], str]:
    """Return the skip reasons that follow from the kind of host, and their summary: `do not apply: no GPU`."""
    known, skipped = table("inapplicable"), set(reasons)
    lacking: dict[str, set[str]] = {}
    for kind in () if known["unless"] in skipped else known["kind"]:
        if found := {reason for reason in skipped if any(re.fullmatch(each, reason) for each in kind["reasons"])}:
            lacking[kind["lacks"]] = found
    if names := [kind for kind, parts in known["whole"].items() if kind in lacking or lacking.keys() >= set(parts)]:
        return frozenset().union(*lacking.values()), f"do not apply: no {names[0]}"
    return frozenset().union(*lacking.values()), f"do not apply: {', '.join(f'no {name}' for name in lacking)}"

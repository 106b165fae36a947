"""Learned floors: what equal healthy hosts measured is what another one of their class should reach. Pure.

Method: the middle is the median; what differs from it by more than the tolerance is left out, and both are computed again, until
nothing is left out. The rule and its source are in learned.toml.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

from provision.core.grouping import gather
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.tables import build_row, own_table, rows_of
from verify.records import LEARNED, CheckResult, Figure, as_record

TABLE = Path(__file__).with_name("learned.toml")
MOST_SHOWN = 3
"""Figures that a sentence names; the others are counted."""

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Rule:
    """The rule of learned.toml, which explains the fields."""

    hosts: int
    share: float
    deviations: float
    mad_scale: float
    widest: float
    source: str


@dataclass(frozen=True)
class FigureRow:
    """Figures that are compared."""

    check: str
    units: tuple[str, ...]
    better: Better


class HostClass(Record):
    """What hosts have in common whose figures should be equal."""

    cards: tuple[str, ...] = ()
    """The name of each card; its identifiers on the bus where no driver names it."""
    driver: str | None = None
    """Branch of the cards' driver."""
    cpu: str
    cpus: int
    environment: str
    """Digest of the environment that the checks ran in."""

    @property
    def key(self) -> str:
        """Return a short name of the class."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]


class LearnedFloor(Record):
    """What one figure should reach."""

    check: str
    figure: str
    unit: str
    better: Better
    middle: float
    """Median of the equals that were not left out, in `unit`."""
    tolerance: float
    """Share of the middle by which a figure may be worse."""

    @property
    def name(self) -> tuple[str, str, str]:
        """Return what distinguishes the figure from others."""
        return self.check, self.figure, self.unit

    @property
    def bound(self) -> float:
        """Return the floor, or the ceiling of a figure of which less is better."""
        return self.middle * (1 - self.tolerance if self.better == "more" else 1 + self.tolerance)

    def is_missed_by(self, value: float) -> bool:
        """Return whether a value is worse than allowed."""
        worse = self.middle - value if self.better == "more" else value - self.middle
        return worse > self.tolerance * self.middle


class LearnedClass(Record):
    """The floors of a class, as the controller keeps them."""

    host_class: HostClass
    run: str
    """The run whose figures these are; those that it did not measure are of an earlier one."""
    hosts: tuple[str, ...]
    """The hosts whose figures these are."""
    floors: tuple[LearnedFloor, ...]


@dataclass(frozen=True)
class Reading:
    """One figure of one device."""

    host: str
    device: str | None
    check: str
    figure: str
    unit: str
    better: Better
    value: float

    @property
    def name(self) -> tuple[str, str, str]:
        """Return what distinguishes the figure from others."""
        return self.check, self.figure, self.unit


@cache
def rule() -> Rule:
    """Return the rule of learned.toml."""
    return build_row(Rule, own_table(TABLE)["rule"], where=TABLE.name)


@cache
def _rows() -> tuple[FigureRow, ...]:
    return rows_of(TABLE, "figure", FigureRow)


def class_of(facts: HostFacts, document: Mapping[str, Any]) -> HostClass | None:
    """Return the class of a host; None where its processor or environment is unknown."""
    vendor = facts.nvidia or facts.amd
    names = [gpu.name for cards in (facts.nvidia, facts.amd) if cards for gpu in cards.gpus if gpu.name]
    if len(names) < len(facts.pci_gpus):
        names = [f"{gpu.vendor_id}:{gpu.device_id}" for gpu in facts.pci_gpus]
    environment = document.get("environment")
    if not environment or not facts.cpu.model or not facts.cpu.logical:
        return None
    driver = vendor.driver_version if vendor else None
    return HostClass(
        cards=tuple(sorted(names)),
        driver=driver.partition(".")[0] if driver else None,
        cpu=facts.cpu.model,
        cpus=facts.cpu.logical,
        # A rebuilt environment has a number behind its digest, and the same content.
        environment=str(environment).partition("-")[0],
    )


def readings(document: Mapping[str, Any]) -> Iterator[Reading]:
    """Yield the figures of a host that floors are learned of; none of a document with injected faults."""
    if document.get("injected"):
        return
    for check in document["checks"]:
        if check["status"] not in ("ok", "warn") or check.get("found"):
            continue
        for figure in check.get("figures") or ():
            name, unit, value = figure["name"], figure["unit"], figure["value"]
            rows = [row for row in _rows() if unit in row.units and re.fullmatch(row.check, check["id"])]
            if rows and value is not None and math.isfinite(value) and value > 0:
                yield Reading(document["host"], check.get("device"), check["id"], name, unit, rows[0].better, value)


def is_green(document: Mapping[str, Any]) -> bool:
    """Return whether a host is healthy as far as its checks know."""
    return all(check["status"] in ("ok", "skip") for check in document["checks"])


def learn(host_class: HostClass, documents: Sequence[Mapping[str, Any]], *, run: str) -> LearnedClass | None:
    """Return the floors of a class from the checks of its healthy hosts; None where they are too few, or none of their figures is steady."""
    by_figure = gather((reading.name, reading) for document in documents for reading in readings(document))
    floors = tuple(floor for _, found in sorted(by_figure.items()) if (floor := _floor(found)))
    if not floors:
        return None
    hosts = tuple(sorted(document["host"] for document in documents))
    return LearnedClass(host_class=host_class, run=run, hosts=hosts, floors=floors)


def _floor(found: Sequence[Reading]) -> LearnedFloor | None:
    """Return the floor of one figure; None where its equals are too few, or differ too much."""
    kept = list(found)
    while True:
        middle = median(reading.value for reading in kept)
        deviation = median(abs(reading.value - middle) for reading in kept) / middle
        tolerance = max(rule().share, rule().deviations * rule().mad_scale * deviation)
        if tolerance > rule().widest:
            return None
        inside = [reading for reading in kept if abs(reading.value - middle) <= tolerance * middle]
        if len(inside) == len(kept):
            break
        kept = inside
    if len({reading.host for reading in kept}) < rule().hosts or 2 * len(kept) <= len(found):
        return None
    check, figure, unit = found[0].name
    better = found[0].better
    return LearnedFloor(check=check, figure=figure, unit=unit, better=better, middle=middle, tolerance=tolerance)


def beyond(document: Mapping[str, Any], learned: LearnedClass) -> list[tuple[Reading, LearnedFloor]]:
    """Return the figures of a host that miss a floor, the worst first."""
    floors = {floor.name: floor for floor in learned.floors}
    missed = [
        (reading, floor)
        for reading in readings(document)
        if (floor := floors.get(reading.name)) and floor.is_missed_by(reading.value)
    ]
    return sorted(missed, key=lambda one: -abs(one[0].value / one[1].middle - 1))


def record_of(document: Mapping[str, Any], learned: LearnedClass, *, run: str) -> dict[str, Any] | None:
    """Return the check record of a host; None where no figure of it has a learned floor.

    A missed floor is a warning and never a failure: nobody but its equals says what a host should reach.
    """
    known = {floor.name for floor in learned.floors}
    compared = [reading for reading in readings(document) if reading.name in known]
    if not compared:
        return None
    missed = beyond(document, learned)
    equals = f"{len(learned.hosts)} comparable hosts"
    when = "this run" if learned.run == run else f"run {learned.run}"
    source = f"learned from {equals} in {when}"
    if not missed:
        outcome = CheckResult("ok", f"{len(compared)} figures reach their floors, {source}")
    else:
        more = f"; {len(missed) - MOST_SHOWN} more" if len(missed) > MOST_SHOWN else ""
        text = "; ".join(_sentence(*one) for one in missed[:MOST_SHOWN])
        remedy = "compare clocks, power, temperature and links of the host with those of comparable hosts: ./firstlight drift"
        figures = tuple(_figure(reading, floor, source) for reading, floor in missed)
        outcome = CheckResult("warn", f"worse than comparable hosts: {text}{more}; {source}", figures, None, remedy)
    return as_record(LEARNED, document["host"], None, outcome, 0.0, level=document.get("level"))


def _sentence(reading: Reading, floor: LearnedFloor) -> str:
    device = f" on {reading.device}" if reading.device else ""
    least = "at least" if floor.better == "more" else "at most"
    value = f"{reading.check} {reading.figure}{device} {reading.value:.3g} {reading.unit}"
    return f"{value}, {least} {floor.bound:.3g} ({abs(reading.value / floor.middle - 1):.0%} from the median)"


def _figure(reading: Reading, floor: LearnedFloor, source: str) -> Figure:
    name = ", ".join(filter(None, (f"{reading.check} {reading.figure}", reading.device)))
    least, most = (floor.bound, None) if floor.better == "more" else (None, floor.bound)
    return Figure(name, reading.value, reading.unit, floor=least, ceiling=most, source=source)


def by_class(
    facts: Mapping[str, HostFacts], documents: Iterable[Mapping[str, Any]]
) -> dict[HostClass, list[Mapping[str, Any]]]:
    """Return the documents of hosts by their class, without hosts of an unknown one."""
    of_known = ((class_of(facts[one["host"]], one), one) for one in documents if one["host"] in facts)
    return gather((host_class, document) for host_class, document in of_known if host_class is not None)

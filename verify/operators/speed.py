"""Evaluation of speeds against the card's floor and against equal devices."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from verify.host.card_health import INJECTED
from verify.host.load import as_evidence, slowdowns
from verify.host.views.nvml import Health
from verify.host.views.pci import Link
from verify.records import CheckContext, CheckResult, Figure, Observation, Status, combine, worst_status
from verify.tables import table

FIXED_POINT: list[int] = table("speed")["points"][0]
"""Batch, length, heads and head dimension at which every device's attention is timed."""
SLOWED = 0.5
"""Factor that the injected fault applies to a speed."""
REMEDY = "check clocks, power cap and temperature: nvidia-smi -q -d CLOCK,POWER,TEMPERATURE,PERFORMANCE"
FIGURES_IN_REASON = 3
"""Number of figures in the reason, which plain tables show."""


def speed_floor(name: str | None, kind: str) -> tuple[float | None, str | None]:
    """Return the minimum of a card for `gemm_bfloat16`, `gemm_fp8`, `memory` or `copy`, and its source; None if unknown, as for CPUs."""
    rows = table("speed")
    for card in rows["card"]:
        if name and kind in card and re.fullmatch(card["match"], name):
            return card[kind] * card.get(f"{kind}_share", rows["share"][kind]), card["source"]
    return None, None


def board_floor(names: Sequence[str], kind: str) -> tuple[float | None, str | None]:
    """Return the minimum of a board in GB/s for `bus`, `pair` or `both`, and its source; None if unknown.

    `bus` is the bus bandwidth of an all-reduce, `pair` a copy between two GPUs, `both` copies in both directions at once, added.
    A floor applies to a complete board of equal cards; no figures are published for other systems.
    """
    rows = table("speed")
    for row in rows["board"]:
        if kind in row and len(names) == row["cards"] and all(re.fullmatch(row["match"], name) for name in names):
            return row[kind] * row.get(f"{kind}_share", rows["share"][kind]), row["source"]
    return None, None


def link_floor(seen: Link) -> tuple[float | None, str | None]:
    """Return the minimum for copies over a link in GB/s and its source; None if unknown."""
    row = table("speed")["link"]
    coding = next((share for speed, share in row["coding"] if seen.speed and seen.speed <= speed), None)
    if coding is None or seen.speed is None or seen.width is None:
        return None, None
    return row["share"] * coding * seen.speed * seen.width / 8, row["source"]


def status_of(value: float | None, least: float | None) -> Status:
    """Return `ok` for a speed that reaches its floor or has none, `warn` below it, and `fail` far below it, or if it is no number."""
    value = value or 0.0
    if least is None or value >= least:
        return "ok"
    return "warn" if value >= least * table("speed")["far_below"]["share"] else "fail"


def evaluate(
    figures: Sequence[Figure], context: CheckContext, evidence: Mapping[str, Any], readings: Sequence[Health] = ()
) -> CheckResult:
    """Warn about figures below their floor, fail if one is far below it, and report what slowed the GPU down under this load.

    The injected fault `slow` halves every speed. For a device without a floor, its own value minus the allowed spread is the floor
    then. The fault `sick-gpu` adds a reading of a GPU that is too hot. `readings` are the GPU's under this load; none for CPUs.
    """
    if "slow" in context.faults:
        least = 1 - table("speed")["spread"]["share"]
        figures = [
            replace(figure, value=(figure.value or 0) * SLOWED, floor=figure.floor or (figure.value or 0) * least)
            for figure in figures
        ]
    if "sick-gpu" in context.faults:
        readings = [*readings, Health(INJECTED, "an injected GPU", clock_reasons=0x48, memory_c=106, memory_max_c=95)]
    observations = list(slowdowns(readings))
    slow = [figure for figure in figures if status_of(figure.value, figure.floor) != "ok"]
    if slow:
        details = "; ".join(f"{one.name} {one.value or 0:.3g} {one.unit}, at least {one.floor:.3g}" for one in slow)
        status = worst_status([status_of(one.value, one.floor) for one in slow])
        observations.append(Observation(status, f"slow: {details}", REMEDY))
    with_floor = sum(figure.floor is not None for figure in figures)
    found = ", ".join(f"{one.name} {one.value or 0:.3g} {one.unit}" for one in figures[:FIGURES_IN_REASON])
    reached = f"{with_floor} of {len(figures)} speeds have a floor, and reach it"
    verdict = reached if with_floor else "recorded, no floor known"
    return combine(observations, f"{found}: {verdict}", tuple(figures), {**evidence, **as_evidence(readings)})

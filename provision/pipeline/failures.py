"""What the doctor says of hosts that failed, kept in the run for its summary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from provision.core.models.records import RoomResult
from provision.phases.probe import Source
from provision.pipeline.context import Walk

ON_HOST = frozenset({"install", "verify", "serve"})
"""Rooms that work on the host: where one fails, the host itself says more than the room."""
OF_OUR_OWN = frozenset({"probe", "plan"})
"""Rooms whose texts quote no program."""


def diagnose(walk: Walk) -> None:
    """Read every failed host's own words, with what the probe saw of it, for causes that the doctor knows."""
    from provision.pipeline import failure_evidence  # noqa: PLC0415 - only a walk that failed pays for it
    from provision.report.diagnosis import diagnose as causes_of  # noqa: PLC0415 - only a walk that failed pays for it
    from provision.report.diagnosis import named  # noqa: PLC0415 - only a walk that failed pays for it

    failed = {name: _failed(results.values()) for name, results in walk.results.items()}
    # What a service said before the room that failed began is of an earlier start.
    begun = {
        name: min(walk.entered.get(result.room, 0.0) for result in results if result.room in ON_HOST)
        for name, results in failed.items()
        if ON_HOST & {result.room for result in results}
    }
    asked = [walk.host(name) for name in begun]
    told: dict[str, tuple[Source, ...]] = {}
    with contextlib.suppress(KeyboardInterrupt):  # whoever is in a hurry gets what the rooms said
        told, _ = failure_evidence.gather(walk, asked, since=begun) if asked else (told, {})
    for name, bad in failed.items():
        known = tuple(named(result.cause, f"{result.room}: {result.text}") for result in bad if result.cause)
        # Planning and probing speak in words of our own alone: what they know of the cause they say themselves.
        results = [result for result in bad if not result.cause and result.room not in OF_OUR_OWN]
        # What the room says of this run comes first: journals may hold older failures as well.
        texts: dict[str, str] = {result.room: "\n".join((result.text or "", *result.evidence)) for result in results}
        sources = {source.name: source.text for source in told.get(name, ()) if source.text}
        findings = causes_of({**texts, **sources}, walk.facts.get(name)) if texts else ()
        if known or findings:
            walk.run.write(f"findings/{name}.json", [finding.model_dump() for finding in (*known, *findings)])


def _failed(results: Iterable[RoomResult]) -> list[RoomResult]:
    return [result for result in results if result.status == "failed"]

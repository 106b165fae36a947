"""What the doctor says of hosts that failed, kept in the run for its summary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from provision.core.models.records import PhaseResult
from provision.phases.probe import Source
from provision.pipeline.context import RunContext

ON_HOST = frozenset({"install", "verify", "serve"})
"""Phases that work on the host: where one fails, the host itself says more than the phase."""
OF_OUR_OWN = frozenset({"probe", "plan"})
"""Phases whose texts quote no program."""


def diagnose(context: RunContext) -> None:
    """Read every failed host's own words, with what the probe saw of it, for causes that the doctor knows."""
    from provision.pipeline import failure_evidence  # noqa: PLC0415 - only a run that failed pays for it
    from provision.report.diagnosis import diagnose as causes_of  # noqa: PLC0415 - only a run that failed pays for it
    from provision.report.diagnosis import named  # noqa: PLC0415 - only a run that failed pays for it

    failed = {name: _failed(results.values()) for name, results in context.results.items()}
    # What a service said before the phase that failed began is of an earlier start.
    begun = {
        name: min(context.entered.get(result.phase, 0.0) for result in results if result.phase in ON_HOST)
        for name, results in failed.items()
        if ON_HOST & {result.phase for result in results}
    }
    asked = [context.host(name) for name in begun]
    told: dict[str, tuple[Source, ...]] = {}
    with contextlib.suppress(KeyboardInterrupt):  # whoever is in a hurry gets what the phases said
        told, _ = failure_evidence.gather(context, asked, since=begun) if asked else (told, {})
    for name, bad in failed.items():
        known = tuple(named(result.cause, f"{result.phase}: {result.text}") for result in bad if result.cause)
        # Planning and probing speak in words of our own alone: what they know of the cause they say themselves.
        results = [result for result in bad if not result.cause and result.phase not in OF_OUR_OWN]
        # What the phase says of this run comes first: journals may hold older failures as well.
        texts: dict[str, str] = {result.phase: "\n".join((result.text or "", *result.evidence)) for result in results}
        sources = {source.name: source.text for source in told.get(name, ()) if source.text}
        findings = causes_of({**texts, **sources}, context.facts.get(name)) if texts else ()
        if known or findings:
            context.run.write(f"findings/{name}.json", [finding.model_dump() for finding in (*known, *findings)])


def _failed(results: Iterable[PhaseResult]) -> list[PhaseResult]:
    return [result for result in results if result.status == "failed"]

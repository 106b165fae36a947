"""Known causes of the failures of a run, for its summary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from provision.core.models.records import PhaseResult
from provision.phases.probe.failure_evidence import Source
from provision.pipeline import failure_evidence
from provision.report.diagnosis import diagnose as causes_of
from provision.report.diagnosis import named
from provision.run.context import RunContext
from provision.run.results import ProbedHosts

ON_HOST = frozenset({"install", "verify", "serve"})
"""Phases that work on the host: its logs show more than the phase's result."""
OWN_TEXTS = frozenset({"probe", "plan"})
"""Phases whose texts quote no other program."""


def diagnose(context: RunContext, probed: ProbedHosts) -> None:
    """Match the logs of failed hosts against known causes, and write the findings to the run's folder."""
    failed = {name: _failed(results.values()) for name, results in context.outcomes.results.items()}
    # Log lines from before the failed phase belong to an earlier start of the service.
    begun = {
        name: min(context.outcomes.entered.get(result.phase, 0.0) for result in results if result.phase in ON_HOST)
        for name, results in failed.items()
        if ON_HOST & {result.phase for result in results}
    }
    asked = [context.host(name) for name in begun]
    sources_of: dict[str, tuple[Source, ...]] = {}
    with contextlib.suppress(KeyboardInterrupt):  # after a second Ctrl-C the texts of the phases have to do
        sources_of, _ = failure_evidence.gather(context, probed, asked, since=begun) if asked else (sources_of, {})
    for name, bad in failed.items():
        known = tuple(named(result.cause, f"{result.phase}: {result.text}") for result in bad if result.cause)
        # The texts of plan and probe are our own; where they know the cause, the result names it.
        results = [result for result in bad if not result.cause and result.phase not in OWN_TEXTS]
        # The phase's own text comes first: journals may hold older failures too.
        texts: dict[str, str] = {result.phase: "\n".join((result.text or "", *result.evidence)) for result in results}
        sources = {source.name: source.text for source in sources_of.get(name, ()) if source.text}
        findings = causes_of({**texts, **sources}, probed.facts.get(name)) if texts else ()
        if known or findings:
            context.run.write(f"findings/{name}.json", [finding.model_dump() for finding in (*known, *findings)])


def _failed(results: Iterable[PhaseResult]) -> list[PhaseResult]:
    return [result for result in results if result.status == "failed"]

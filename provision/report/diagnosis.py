"""Adapter to the doctor: logs of a failed phase and facts of the host in, findings for the summary out."""

from __future__ import annotations

from collections.abc import Mapping

from provision.core.models.facts import HostFacts
from provision.core.models.records import Finding
from verify.doctor import render
from verify.doctor.catalog import Cause, load_causes
from verify.doctor.engine import diagnose_texts
from verify.doctor.scoring import LIKELY_AT
from verify.doctor.scoring import Finding as Diagnosed


def diagnose(texts: Mapping[str, str], facts: HostFacts | None = None) -> tuple[Finding, ...]:
    """Match log texts, by the name of a file or a phase, against known causes; the oldest text comes first.

    Causes are never guessed from single words, because a summary must only report what log lines show. Return the findings, most likely
    first; none when no cause is sufficiently likely.
    """
    known = facts.model_dump(mode="json") if facts else None
    findings = diagnose_texts(texts, known, guess=False).findings
    if not findings or findings[0].confidence < LIKELY_AT:
        return ()
    return tuple(map(_finding, findings))


def named(cause: str, text: str) -> Finding:
    """Return the finding for a cause that the failing code named itself; `text` becomes its evidence."""
    known = next(each for each in load_causes() if each.id == cause)
    return Finding(cause=cause, confidence=1.0, evidence=(text.splitlines()[0],), fix=_fixes(known))


def is_repairable(found: Finding) -> bool:
    """Return whether `doctor --apply` may repair this cause: it is likely, and a step of its fix is safe."""
    cause = next((cause for cause in load_causes() if cause.id == found.cause), None)
    return cause is not None and found.confidence >= LIKELY_AT and any(fix.safe for fix in cause.fixes)


def _finding(found: Diagnosed) -> Finding:
    return Finding(
        cause=found.cause.id,
        confidence=found.confidence,
        evidence=tuple(f"{hit.file}:{hit.line}: {hit.text.strip()}" for hit, _ in render.evidence_lines(found)),
        fix=_fixes(found.cause),
    )


def _fixes(cause: Cause) -> tuple[str, ...]:
    return tuple(f"{fix.text}: {fix.command}" if fix.command else fix.text for fix in cause.fixes)

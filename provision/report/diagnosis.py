"""The door to the doctor: texts of a failed phase, and what the probe saw of the host, to findings of the summary."""

from __future__ import annotations

from collections.abc import Mapping

from provision.core.models.facts import HostFacts
from provision.core.models.records import Finding
from verify.doctor import render
from verify.doctor.catalog import load_causes
from verify.doctor.cause import Cause
from verify.doctor.engine import diagnose_texts
from verify.doctor.scoring import LIKELY_AT
from verify.doctor.scoring import Finding as Diagnosed


def diagnose(texts: Mapping[str, str], facts: HostFacts | None = None) -> tuple[Finding, ...]:
    """The causes that the texts show together, most likely first; empty when none is known well enough.

    `texts` by name (a file, a phase), in their order in time. Nothing is guessed by words: a summary says what lines show.
    """
    known = facts.model_dump(mode="json") if facts else None
    return tuple(_finding(found) for found in diagnose_texts(texts, known, guess=False).findings)


def named(cause: str, text: str) -> Finding:
    """A cause that is known and need not be read out of a text; `text` is what was said of it."""
    known = next(each for each in load_causes() if each.id == cause)
    return Finding(cause=cause, confidence=1.0, evidence=(text.splitlines()[0],), fix=_fixes(known))


def is_repairable(found: Finding) -> bool:
    """Whether `doctor --apply` may take this cause away: it is likely enough, and a step of its fix is safe."""
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

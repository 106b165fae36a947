"""What both live views say of a host."""

from __future__ import annotations

from provision.core.models.records import PhaseResult
from provision.core.redaction import redact
from provision.report.layout import clean


def ending(result: PhaseResult) -> str:
    """How a phase ended, in words: `ok, changed` or `failed: no space left`."""
    word = f"{result.status}, changed" if result.changed else result.status
    return f"{word}: {printable_line(result.text)}" if result.text and result.status != "ok" else word


def printable_line(text: str) -> str:
    """A text of anybody's, safe to show."""
    return redact(clean(text))

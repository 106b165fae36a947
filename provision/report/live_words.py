"""Wording shared by both progress views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.core.redaction import redact
from provision.report.layout import clean

if TYPE_CHECKING:
    from provision.core.models.records import PhaseResult


def ending(result: PhaseResult) -> str:
    """Return how a phase ended: `ok, changed` or `failed: no space left`."""
    word = f"{result.status}, changed" if result.changed else result.status
    return f"{word}: {printable_line(result.text)}" if result.text and result.status != "ok" else word


def printable_line(text: str) -> str:
    """Return any text as one redacted, printable line."""
    return redact(clean(text))

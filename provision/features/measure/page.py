"""Services measured with two choices: the tables of `verify compare`, one host after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from provision.core.json_text import parse
from provision.core.redaction import scrub
from provision.core.run_folder import RunFolder
from provision.report.page.hosts import Tone

FOLDER = "compare"
TONES: dict[str, Tone] = {"met": "good", "not met": "bad"}


class ComparedRow(BaseModel):
    """One measure before and after, as in the document of `verify.pyz compare`."""

    title: str
    unit: str
    before: float | None
    after: float | None
    change: float | None
    target: str
    verdict: str

    @property
    def tone(self) -> Tone:
        return TONES.get(self.verdict, "neutral")


class _Side(BaseModel):
    choice: str


class Comparison(BaseModel):
    """What two choices gave on one host."""

    kind: str
    before: _Side
    after: _Side
    rows: tuple[ComparedRow, ...]


def comparisons(run: RunFolder) -> tuple[tuple[str, Comparison], ...]:
    """Return host and comparison of each file of a run; an unreadable file is left out."""
    return tuple(_read(run))


def _read(run: RunFolder) -> Iterator[tuple[str, Comparison]]:
    for path in sorted(run.folder.glob(f"{FOLDER}/*.json")):
        try:
            document: Any = scrub(parse(path.read_bytes()))
            yield path.stem, Comparison.model_validate(document)
        except (OSError, ValueError, ValidationError):
            continue

"""Where measuring takes part in the work of the core: learned floors among the checks, comparisons on the page of a run."""

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from provision.core.json_text import parse
from provision.core.redaction import scrub
from provision.core.run_folder import RunFolder
from provision.features.measure.learned_floors import with_records
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.report.page.hosts import Tone
from provision.report.page.view import Section
from provision.run.context import RunContext
from provision.run.results import ProbedHosts

PAGE = Path(__file__).with_name("page.html")


def hosts_checked(
    context: RunContext, probed: ProbedHosts, answers: dict[str, Verified], options: CheckOptions
) -> dict[str, Verified]:
    """Return the checks of hosts with what the figures of equal hosts say of them; floors are learned from complete runs."""
    if options.soak_minutes is not None or options.refute:
        return answers
    return with_records(context, probed, answers, learns=not options.selection)


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


def page_section(run: RunFolder) -> Section | None:
    """Return the comparisons of a run, host by host; None where it made none. An unreadable file is left out."""
    found = []
    for path in sorted(run.folder.glob("compare/*.json")):
        with suppress(OSError, ValueError):
            found.append((path.stem, Comparison.model_validate(scrub(parse(path.read_bytes())))))
    return Section("compared", "Before and after", PAGE, {"compared": found}) if found else None

"""Where measuring takes part in the work of the core: learned floors among the checks, comparisons on the page of a run."""

from __future__ import annotations

from pathlib import Path

from provision.core.run_folder import RunFolder
from provision.features.measure.learned_floors import with_records
from provision.features.measure.page import comparisons
from provision.phases.verify.step import CheckOptions
from provision.phases.verify.tool_output import Verified
from provision.report.page.section import Section
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


def page_section(run: RunFolder) -> Section | None:
    """Return the comparisons of a run; None where it made none."""
    found = comparisons(run)
    return Section("compared", "Before and after", PAGE, {"compared": found}) if found else None

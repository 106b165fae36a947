"""Page of a run: one self-contained HTML file (docs/guides/reading-a-run.md)."""

from __future__ import annotations

from pathlib import Path

from provision.core import features
from provision.core.files import write_atomically
from provision.core.models.records import Summary
from provision.core.redaction import scrub
from provision.core.run_folder import RunFolder
from provision.report import summarise
from provision.report.difference import since_green
from provision.report.page import template
from provision.report.page.view import view

NAME = "summary.html"


def write(run: RunFolder) -> Path:
    """Write the page into the run's folder atomically, from the run's files, also for a killed run.

    Returns:
        The path of the page.

    Raises:
        OSError: The folder cannot be written.
    """
    path = run.path(NAME)
    write_atomically(path, render(run))
    return path


def render(run: RunFolder) -> str:
    """Return the page's text without secrets; earlier runs in the same log folder are used for the comparison."""
    summary = _summary(run)
    names = [host.name for host in summary.hosts]
    content = view(
        summary,
        scrub(list(run.events())),
        changed=since_green(run.logs, run.name, names),
        added=tuple(filter(None, (section(run) for section in features.hooks("page_section")))),
    )
    return template.render(content)


def _summary(run: RunFolder) -> Summary:
    """Return the run's summary; rebuilt from its files when it was killed or belongs to another release."""
    try:
        return Summary.model_validate_json(run.path("summary.json").read_bytes())
    except (OSError, ValueError):
        return summarise(run, interrupted=not run.path("summary.json").exists())

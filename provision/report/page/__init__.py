"""The page of a run: one HTML file that needs nothing beside it (docs/guides/reading-a-run.md)."""

from __future__ import annotations

from pathlib import Path

from provision.core.models.records import Summary
from provision.core.redaction import scrub
from provision.core.run_folder import RunFolder, write_atomically
from provision.report import summarise

NAME = "summary.html"


def write(run: RunFolder) -> Path:
    """Write the page into the run's folder, whole or not at all; returns its path.

    Made from what the run wrote, so that every run has one, also one that was killed.
    Raises OSError when the folder cannot be written.
    """
    path = run.path(NAME)
    write_atomically(path, render(run))
    return path


def render(run: RunFolder) -> str:
    """The page's text, without secrets. `run.folder` stands among the other runs, the last green ones too."""
    from provision.report.difference import since_green  # noqa: PLC0415 - whoever writes no page must not pay for it
    from provision.report.page import template  # noqa: PLC0415
    from provision.report.page.view import view  # noqa: PLC0415

    summary = _summary(run)
    names = [host.name for host in summary.hosts]
    content = view(
        summary,
        scrub(list(run.events())),
        changed=since_green(run.folder.parent, run.name, names),
        files=files_of_run(run),
        files_of={name: files_of(run, name) for name in names},
    )
    return template.render(page=content)


def _summary(run: RunFolder) -> Summary:
    """What the run said at its end; made from its records when it was killed before that, or is of another release."""
    try:
        return Summary.model_validate_json(run.path("summary.json").read_bytes())
    except (OSError, ValueError):
        return summarise(run, interrupted=not run.path("summary.json").exists())


ROOM_FILES = ("facts", "stage", "verify", "serve", "findings")
RUN_FILES = (
    "summary.txt",
    "summary.md",
    "summary.json",
    "plan.json",
    "inventory.json",
    "phases.json",
    "events.jsonl",
    "changes.jsonl",
    "install/ansible.log",
    "install/tasks.jsonl",
)


def files_of(run: RunFolder, host: str) -> tuple[str, ...]:
    """The phases' own files of one host that are there, relative to the run's folder."""
    return tuple(name for phase in ROOM_FILES if run.path(name := f"{phase}/{host}.json").is_file())


def files_of_run(run: RunFolder) -> tuple[str, ...]:
    """The files of the whole run that are there."""
    return tuple(name for name in RUN_FILES if run.path(name).is_file())

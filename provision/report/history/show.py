"""The summary of one past run, made now where the run was killed before it had one."""

from __future__ import annotations

from pathlib import Path

from provision.core.errors import UsageError
from provision.core.json_text import parse_object
from provision.core.run_folder import RunFolder
from provision.report import json_form, summarise, text
from provision.report.history.runs import document, find, run_status
from provision.report.screen import first_screen_of


def summary_text(logs: Path, run: str | None = None, *, full: bool = False, as_json: bool = False) -> str:
    """The first screen of a run's summary, with `full` its whole text, or its JSON; of the newest run by default.

    Raises UsageError when there is no such run, or when it still goes on.
    """
    folder = find(logs, run)
    told = _written_json(folder) if as_json else _written_text(folder)
    if told is None:
        require_end(folder)
        summary = summarise(RunFolder(folder), interrupted=run_status(folder) == "killed")
        told = json_form.render(summary) if as_json else text.render(summary)
    return (told if full or as_json else first_screen_of(told, run)).rstrip("\n")


def _written_text(folder: Path) -> str | None:
    """What the run said at its end; null where it did not, or where that file is damaged."""
    try:
        return (folder / "summary.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _written_json(folder: Path) -> str | None:
    """The same for scripts, to whom half a document is worse than none."""
    try:
        content = (folder / "summary.json").read_bytes()
        parse_object(content)
        return content.decode()
    except (OSError, ValueError):
        return None


def require_end(folder: Path) -> None:
    """A run that has ended, or was killed, can be told of as a whole.

    Raises UsageError when it still goes on.
    """
    if run_status(folder) == "running":
        process = document(folder / "run.json").get("pid")
        raise UsageError(
            f"run `{folder.name}` has no summary yet: process {process} is still at work",
            hint=f"watch it: ./firstlight logs show {folder.name} --follow",
        )

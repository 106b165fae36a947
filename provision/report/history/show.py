"""One past run: its summary, created now when it was killed before it wrote one."""

from pathlib import Path

from provision.core.errors import UsageError
from provision.core.json_text import parse_object
from provision.core.run_folder import RunFolder
from provision.report import summarise, text
from provision.report.history.runs import document, find, run_status
from provision.report.screen import first_screen_of


def summary_text(logs: Path, run: str | None = None, *, full: bool = False, as_json: bool = False) -> str:
    """Return the first screen of a run's summary, its whole text (`full`), or its JSON.

    Raises:
        UsageError: There is no such run, or it is still running.
    """
    folder = find(logs, run)
    shown = _written(folder, as_json=as_json)
    if shown is None:
        require_end(folder)
        summary = summarise(RunFolder(folder), interrupted=run_status(folder) == "killed")
        shown = summary.model_dump_json(indent=2) if as_json else text.render(summary)
    return (shown if full or as_json else first_screen_of(shown, run)).rstrip("\n")


def _written(folder: Path, *, as_json: bool) -> str | None:
    """Return the summary written by the run; None when missing or damaged."""
    try:
        content = (folder / ("summary.json" if as_json else "summary.txt")).read_text(encoding="utf-8")
        if as_json:
            parse_object(content)
    except (OSError, ValueError):
        return None
    return content


def require_end(folder: Path) -> None:
    """Check that a run has ended or was killed.

    Raises:
        UsageError: It is still running.
    """
    if run_status(folder) == "running":
        process = document(folder / "run.json").get("pid")
        raise UsageError(
            f"run `{folder.name}` has no summary yet: process {process} is still running",
            hint=f"its events so far: tail -f {folder / 'events.jsonl'}",
        )

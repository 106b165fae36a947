"""One past run: its summary, created now when it was killed before it wrote one, or its events as it writes them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from provision.core.errors import UsageError
from provision.core.json_text import parse_object
from provision.core.run_folder import RunFolder
from provision.report import summarise, text
from provision.report.history.runs import document, find, run_status
from provision.report.layout import clean, duration
from provision.report.screen import first_screen_of

POLL_S = 0.25


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
            hint=f"watch it: ./firstlight logs show {folder.name} --follow",
        )


def follow_events(folder: Path, *, wait: Callable[[], None] = lambda: time.sleep(POLL_S)) -> Iterator[str]:
    """Yield one line for each relevant event of a run of another process as it is written, until the run ends."""
    path = folder / "events.jsonl"
    read = 0
    while True:
        # checked first, so that the last events of an ending run are read
        is_over = run_status(folder) != "running"
        content = b""
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        read += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                if message := sentence(parse_object(line)):
                    yield message
        if is_over:
            return
        wait()


def sentence(event: dict[str, Any]) -> str | None:
    """Describe an event; None for events that another one covers."""
    kind, phase = str(event.get("kind")), str(event.get("phase") or "")
    shown: Callable[[], str] | None = {
        "enter": lambda: phase,
        "phase": lambda: f"{phase} ended after {duration(float(event['seconds']))}",
        "locked": lambda: "locked for this run",
        "sent": lambda: _sent(event),
        "playbook": lambda: f"playbook {event['playbook']}: {event['status']}",
        "packages": lambda: f"OS packages: {event['status']}",
        "result": lambda: ": ".join(filter(None, (f"{phase} {event['status']}", event.get("text")))),
    }.get(kind)
    if shown is None:
        return None
    try:
        words = shown()
    except (KeyError, TypeError, ValueError):  # an event of another release
        return None
    host = f"  {clean(str(event['host']))}: " if event.get("host") else ""
    return f"[{str(event.get('at'))[11:19]}] {host}{clean(words)}"


def _sent(event: dict[str, Any]) -> str:
    peer = f" and {int(event['peer_bytes']) / 2**20:.1f} MiB from {event['peer']}" if event.get("peer") else ""
    return f"{int(event['bytes']) / 2**20:.1f} MiB sent{peer} in {duration(float(event['seconds']))}"

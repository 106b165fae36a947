"""`./firstlight logs`: past runs, a line each, and the summary of one."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

from provision.errors import UsageError
from provision.report.layout import count, duration, table
from provision.run import Run


def names(logs: Path) -> list[str]:
    """Runs that left a folder, the newest first."""
    return sorted((path.parent.name for path in logs.glob("*/run.json") if not path.parent.is_symlink()), reverse=True)


def list_runs(logs: Path) -> str:
    """All runs, the newest first: name, verdict, hosts, seconds, command."""
    found = names(logs)
    if not found:
        return f"no run in {logs}"
    return "\n".join(table([_row(logs / name) for name in found], indent=""))


def _row(folder: Path) -> tuple[tuple[str, ...], str]:
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
        hosts = count(len(summary["hosts"]), "host")
        return (folder.name, summary["verdict"], hosts, duration(summary["seconds"])), summary["command"]
    except (OSError, ValueError, KeyError, TypeError):
        return (folder.name, "no summary", "", ""), _command(folder)


def _command(folder: Path) -> str:
    return str(_header(folder).get("command", ""))


def _header(folder: Path) -> dict[str, Any]:
    try:
        header = json.loads((folder / "run.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def _at_work(folder: Path) -> int | None:
    """The process of a run that is still alive; null when it ended."""
    process = _header(folder).get("pid")
    if not isinstance(process, int):
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return process


def show(logs: Path, run: str | None = None) -> str:
    """The text of a run's summary, of the newest run by default; made now where the run was killed before it had one.

    Raises UsageError when there is no such run.
    """
    found = names(logs)
    if not found:
        raise UsageError(f"no run in `{logs}`", hint="make one: ./firstlight provision")
    name = found[0] if run in (None, "latest") else run
    if name not in found:
        near = difflib.get_close_matches(str(name), found, n=1)
        known = f"`{near[0]}`" if near else f"the newest is `{found[0]}`"
        raise UsageError(f"no run `{name}` in `{logs}`; {known}", hint="all runs: ./firstlight logs --list")
    written = logs / str(name) / "summary.txt"
    if written.exists():
        return written.read_text(encoding="utf-8").rstrip("\n")
    if process := _at_work(logs / str(name)):
        raise UsageError(f"run `{name}` has no summary yet: process {process} is still at work", hint="wait for it")
    from provision.report import summarise, text  # noqa: PLC0415 - only for a run that was killed

    return text.render(summarise(Run(logs / str(name)), interrupted=True)).rstrip("\n")

"""Follows a run of another process by its events file; ending this command does not end the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from provision.core.json_text import parse_object
from provision.report.history.runs import run_status
from provision.report.layout import clean, duration

POLL_S = 0.25


def follow(folder: Path, *, wait: Callable[[], None] = lambda: time.sleep(POLL_S)) -> Iterator[str]:
    """Yield one line for each relevant event of a run as it is written, until the run ends."""
    path = folder / "events.jsonl"
    read = 0
    while True:
        # checked first, so that the last events of an ending run are read
        is_over = run_status(folder) != "running"
        content = _from(path, read)
        whole = content[: content.rfind(b"\n") + 1]
        read += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                if message := sentence(parse_object(line)):
                    yield message
        if is_over:
            return
        wait()


def _from(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read()
    except OSError:
        return b""


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

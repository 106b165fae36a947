"""What was proven of the service's processes: notes of their attention layers, and the last proof as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from verify.serving.processes import Process
from verify.serving.service import Service


def attention_notes(service: Service, processes: Iterable[Process]) -> tuple[Mapping[str, Any], ...]:
    """The notes of these very processes, by PID and start; those of earlier ones lie there as well."""
    starts = {process.pid: process.start_ticks for process in processes}
    found = (_json(path) for path in sorted((service.prefix / "run").glob("attention-*.json")))
    return tuple(
        one
        for one in found
        if one.get("start_ticks") is not None and starts.get(one.get("pid", 0)) == one["start_ticks"]
    )


def proves_start(service: Service, main: Process) -> bool | None:
    """Whether the last proof was of this start of the server; null where there is none that can be read.

    A proof of a release that noted no start is of every process of its PID in the same boot.
    """
    proven = _json(service.prefix / "verify" / "ready.json")
    if not proven:
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    same = (proven.get("main_pid"), proven.get("boot_id")) == (main.pid, boot_id)
    return same and proven.get("start_ticks") in (None, main.start_ticks)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

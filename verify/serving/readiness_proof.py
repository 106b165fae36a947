"""Evidence about the service's processes: notes of their attention layers, and the last proof of readiness."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.serving.processes import Process
from verify.serving.service import Service


def attention_notes(service: Service, processes: Iterable[Process]) -> tuple[Mapping[str, Any], ...]:
    """Return the notes of exactly these processes, by PID and start; the folder has those of earlier ones too."""
    starts = {process.pid: process.start_ticks for process in processes}
    found = (read_json(path) for path in sorted((service.prefix / "run").glob("attention-*.json")))
    return tuple(
        one
        for one in found
        if one.get("start_ticks") is not None and starts.get(one.get("pid", 0)) == one["start_ticks"]
    )


def proves_start(service: Service, main: Process) -> bool | None:
    """Return whether the last proof was of this start of the server; None if no proof can be read.

    Proofs of releases that recorded no start match every process with the same PID since boot.
    """
    proven = read_json(service.prefix / "verify" / "ready.json")
    if not proven:
        return None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    same = (proven.get("main_pid"), proven.get("boot_id")) == (main.pid, boot_id)
    return same and proven.get("start_ticks") in (None, main.start_ticks)

"""Records of hosts in one run, as far as they can be compared with another run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeAlias

from provision.core.models.facts import HostFacts
from provision.core.models.records import CheckRecord, HostState
from provision.core.models.stack import Stack
from provision.core.models.staged import Staged
from provision.core.redaction import scrub
from provision.core.requirements_file import read_lock
from provision.core.run_folder import RunFolder
from provision.report.run_files import read
from provision.report.summary_builder import build

FigureKey: TypeAlias = tuple[str, str, str]
"""Check, device, figure."""
Span: TypeAlias = tuple[float, float]
"""Smallest and largest value of a figure."""

REACHED = {"kind", "address", "port", "user", "become", "python_interpreter"}
"""Fields of a connection that an inventory sets."""


@dataclass(frozen=True)
class HostRecords:
    """One host in one run; None or empty means that the run did not reach this part."""

    host: str
    run: str
    state: HostState = "probed"
    facts: HostFacts | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings, and under `connection` how the host is reached; no secret."""
    stack: Stack | None = None
    lock: Mapping[str, str] = field(default_factory=dict)
    """Distribution to version, with the beginning of its file's sha256."""
    checks: tuple[CheckRecord, ...] = ()
    spans: Mapping[FigureKey, Span] = field(default_factory=dict)
    """Ranges of figures over this run and earlier green ones; without a range the own value counts."""


def read_records(folder: Path) -> dict[str, HostRecords]:
    """Read the records of each host of a run's folder, also of a killed run; a missing or damaged file leaves out its part."""
    files = read(RunFolder(folder))
    summary = build(files)
    connections = {entry.name: entry for entry in files.inventory.hosts} if files.inventory else {}
    hosts: dict[str, HostRecords] = {}
    for host in summary.hosts:
        entry, staged = connections.get(host.name), files.staged.get(host.name)
        settings: dict[str, Any] = {}
        if entry is not None:
            reached = entry.connection.model_dump(mode="json", include=REACHED)
            settings = {**entry.settings.model_dump(mode="json"), "connection": reached}
        hosts[host.name] = HostRecords(
            host=host.name,
            run=files.run,
            state=host.state,
            facts=files.facts.get(host.name),
            settings=scrub(settings),
            stack=host.stack,
            lock=_lock(folder, staged) if staged else {},
            checks=host.checks,
        )
    return hosts


def _lock(folder: Path, staged: Staged) -> dict[str, str]:
    """Read the lock next to the class's record, whose stored path may be of another machine."""
    with contextlib.suppress(OSError):
        lock = (folder / "stage" / PurePath(staged.lock).name).read_text(encoding="utf-8")
        return {one.name: f"{one.version} (sha256 {min(one.hashes)[:12]})" for one in read_lock(lock) if one.hashes}
    return {}

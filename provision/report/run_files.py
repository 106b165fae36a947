"""Reader for a run's folder. Missing files were not reached; unreadable ones are reported and skipped."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from provision.core.json_text import parse
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Inventory
from provision.core.models.invocation import Invocation
from provision.core.models.records import (
    CheckRecord,
    Finding,
    GatewayRecord,
    MonitoringRecord,
    PhaseResult,
    ReleaseRecord,
    ServeRecord,
    Transfers,
)
from provision.core.models.stack import Plan
from provision.core.models.staged import Staged
from provision.core.run_folder import RunFolder

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

TRANSFERS_FILE = "transfers.json"
CHANGES_FILE = "planned_changes.json"
HOST_COMPARISON_FILE = "host_comparison.json"
"""Name of the file with the checks that compare hosts."""

_CHECKS: TypeAdapter[tuple[CheckRecord, ...]] = TypeAdapter(tuple[CheckRecord, ...])
_FINDINGS: TypeAdapter[tuple[Finding, ...]] = TypeAdapter(tuple[Finding, ...])
_PHASE_RESULTS: TypeAdapter[dict[str, dict[str, PhaseResult]]] = TypeAdapter(dict[str, dict[str, PhaseResult]])


@dataclass(frozen=True)
class Verification:
    """Checks of one host and their time."""

    checks: tuple[CheckRecord, ...] = ()
    at: str | None = None


@dataclass
class RunFiles:
    """Content of a run's folder, by host name."""

    run: str
    command: str = ""
    started_at: str = ""
    seconds: float = 0.0
    invocation: Invocation | None = None
    """The command line; None when the run did not record it."""
    inventory: Inventory | None = None
    plan: Plan | None = None
    phases: dict[str, dict[str, PhaseResult]] = field(default_factory=dict)
    facts: dict[str, HostFacts] = field(default_factory=dict)
    staged: dict[str, Staged] = field(default_factory=dict)
    verified: dict[str, Verification] = field(default_factory=dict)
    served: dict[str, ServeRecord] = field(default_factory=dict)
    gateways: dict[str, GatewayRecord] = field(default_factory=dict)
    monitors: dict[str, MonitoringRecord] = field(default_factory=dict)
    releases: dict[str, ReleaseRecord] = field(default_factory=dict)
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    host_comparison: tuple[CheckRecord, ...] = ()
    """Checks that compare hosts."""
    phase_seconds: dict[str, float] = field(default_factory=dict)
    dispatch: dict[str, float] = field(default_factory=dict)
    wheelhouse: dict[str, float] = field(default_factory=dict)
    transfers: Transfers | None = None
    unreadable: list[str] = field(default_factory=list)


def verification(document: dict[str, Any]) -> Verification:
    """Read the output of `verify --json`; unknown keys of a later release are ignored.

    Raises:
        ValidationError: A check is malformed.
    """
    checks = _CHECKS.validate_python(document.get("checks") or (), extra="ignore")
    at = document.get("started_at")
    return Verification(checks=checks, at=at if isinstance(at, str) else None)


def own_verification(document: Any) -> Verification:
    """Read a host's own record of its last checks; one that is missing or malformed has none."""
    try:
        return verification(document)
    except (ValueError, AttributeError, TypeError):
        return Verification()


def read(run: RunFolder) -> RunFiles:
    """Read everything that a run has written so far."""
    files = RunFiles(run=run.name, seconds=run.seconds)
    header = _json(files, run.path("run.json"))
    if isinstance(header, dict):
        files.command = str(header.get("command", ""))
        files.started_at = str(header.get("started_at", ""))
        files.seconds = _number(header.get("seconds"), files.seconds)
        with contextlib.suppress(ValidationError):
            files.invocation = Invocation.model_validate(header.get("invocation"))
    files.inventory = _record(files, run.path("inventory.json"), Inventory)
    files.plan = _record(files, run.path("plan.json"), Plan)
    files.phases = _read(files, run.path("phases.json"), _PHASE_RESULTS.validate_python) or {}
    _read_hosts(files, run)
    files.served = _read_folder(files, run, "serve", ServeRecord)
    files.releases = _read_folder(files, run, "release", ReleaseRecord)
    files.gateways = _read_folder(files, run, "gateway", GatewayRecord)
    files.monitors = _read_folder(files, run, "monitoring", MonitoringRecord)
    _read_times(files, run)
    return files


def results_of(run: RunFolder) -> dict[str, dict[str, PhaseResult]]:
    """Return how each phase ended for each host; empty when it cannot be read."""
    return _read(RunFiles(run=run.name), run.path("phases.json"), _PHASE_RESULTS.validate_python) or {}


def _read_hosts(files: RunFiles, run: RunFolder) -> None:
    """Read the files of the phases, one a host or class."""
    for path in sorted(run.folder.glob("facts/*.json")):
        if facts := _record(files, path, HostFacts):
            files.facts[facts.host] = facts
    for path in sorted(run.folder.glob("stage/*.json")):
        if staged := _record(files, path, Staged):
            files.staged.update(dict.fromkeys(staged.hosts, staged))
    for path in sorted(run.folder.glob("findings/*.json")):
        files.findings[path.stem] = _read(files, path, _FINDINGS.validate_python) or ()
    for path in sorted(run.folder.glob("verify/*.json")):
        if checks := _read(files, path, verification):
            files.verified[path.stem] = checks
    host_comparison = _read(files, run.path(HOST_COMPARISON_FILE), verification)
    files.host_comparison = host_comparison.checks if host_comparison else ()


def _read_folder(files: RunFiles, run: RunFolder, folder: str, kind: type[M]) -> dict[str, M]:
    """Read the records of a folder, one a host, by its name."""
    paths = sorted(run.folder.glob(f"{folder}/*.json"))
    return {path.stem: record for path in paths if (record := _record(files, path, kind))}


def _figures(files: RunFiles, path: Path) -> dict[str, float]:
    found = _json(files, path)
    return {key: _number(value, 0.0) for key, value in found.items()} if isinstance(found, dict) else {}


def _read_times(files: RunFiles, run: RunFolder) -> None:
    """Read the seconds of each phase, and the figures of dispatch, wheelhouse and transfers."""
    files.dispatch = _figures(files, run.path("dispatch.json"))
    files.wheelhouse = _figures(files, run.path("wheelhouse.json"))
    files.transfers = _record(files, run.path(TRANSFERS_FILE), Transfers)
    last = files.started_at
    for event in run.events():
        last = str(event.get("at") or last)
        if event.get("kind") == "phase" and event.get("phase"):
            phase = str(event["phase"])
            files.phase_seconds[phase] = round(
                files.phase_seconds.get(phase, 0.0) + _number(event.get("seconds"), 0.0), 3
            )
    # the run may belong to another process, so only recorded times are known
    files.seconds = max(files.seconds, seconds_between(files.started_at, last) or 0.0)


def seconds_between(start: str, end: str) -> float | None:
    """Return the seconds between two ISO 8601 times; None when either is malformed."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else default


def _json(files: RunFiles, path: Path) -> Any:
    return _read(files, path, lambda document: document)


def _record(files: RunFiles, path: Path, kind: type[M]) -> M | None:
    # At once where that succeeds; the other way takes what is no UTF-8 too, and says what is wrong with the rest.
    with contextlib.suppress(OSError, ValidationError):
        return kind.model_validate_json(path.read_bytes())
    return _read(files, path, kind.model_validate)


def _read(files: RunFiles, path: Path, validate: Callable[[Any], T]) -> T | None:
    """Read a JSON file; None if it is missing, null, or unreadable, which is noted."""
    if not path.exists():
        return None
    try:
        document = parse(path.read_bytes())
        return None if document is None else validate(document)
    except ValidationError as error:
        reason = _first(error)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = str(error)
    files.unreadable.append(f"{path.parent.name}/{path.name} could not be read: {reason}")
    return None


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"

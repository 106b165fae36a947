"""Reader for a run's folder. Missing files were not reached; unreadable ones are reported and skipped."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

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

T = TypeVar("T")

TRANSFERS_FILE = "transfers.json"
CHANGES_FILE, PHASES_FILE = "planned_changes.json", "phases.json"
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
    transfers: Transfers | None = None
    unreadable: list[str] = field(default_factory=list)


def _verification(document: dict[str, Any]) -> Verification:
    """Read the output of `verify --json`; unknown keys of a later release are ignored."""
    checks = _CHECKS.validate_python(document.get("checks") or (), extra="ignore")
    at = document.get("started_at")
    return Verification(checks=checks, at=at if isinstance(at, str) else None)


def own_verification(document: Any) -> Verification:
    """Read a host's own record of its last checks; one that is missing or malformed has none."""
    try:
        return _verification(document)
    except (ValueError, AttributeError, TypeError):
        return Verification()


def read(run: RunFolder) -> RunFiles:
    """Read everything that a run has written so far; settings and facts that this version does not know are ignored."""
    files = RunFiles(run=run.name, seconds=run.seconds)
    header = _read(files, run.path("run.json"), lambda document: document)
    if isinstance(header, dict):
        files.command = str(header.get("command", ""))
        files.started_at = str(header.get("started_at", ""))
        with contextlib.suppress(ValidationError):
            files.invocation = Invocation.model_validate(header.get("invocation"))
    files.inventory = _inventory(files, run)
    files.plan = _read(files, run.path("plan.json"), Plan.model_validate)
    files.phases = _read(files, run.path(PHASES_FILE), _PHASE_RESULTS.validate_python) or {}
    facts = _by_file(files, run, "facts", partial(HostFacts.model_validate, extra="ignore"))
    files.facts = {one.host: one for one in facts.values()}
    for staged in _by_file(files, run, "stage", Staged.model_validate).values():
        files.staged.update(dict.fromkeys(staged.hosts, staged))
    files.findings = _by_file(files, run, "findings", _FINDINGS.validate_python)
    files.verified = _by_file(files, run, "verify", _verification)
    host_comparison = _read(files, run.path(HOST_COMPARISON_FILE), _verification)
    files.host_comparison = host_comparison.checks if host_comparison else ()
    files.served = _by_file(files, run, "serve", ServeRecord.model_validate)
    files.releases = _by_file(files, run, "release", ReleaseRecord.model_validate)
    files.gateways = _by_file(files, run, "gateway", GatewayRecord.model_validate)
    files.monitors = _by_file(files, run, "monitoring", MonitoringRecord.model_validate)
    files.transfers = _read(files, run.path(TRANSFERS_FILE), Transfers.model_validate)
    _read_times(files, run)
    return files


def results_of(run: RunFolder) -> dict[str, dict[str, PhaseResult]]:
    """Return how each phase ended for each host; empty when it cannot be read."""
    return _read(RunFiles(run=run.name), run.path(PHASES_FILE), _PHASE_RESULTS.validate_python) or {}


def inventory_of(run: RunFolder) -> Inventory | None:
    """Return the inventory of a run; None when it cannot be read."""
    return _inventory(RunFiles(run=run.name), run)


def _inventory(files: RunFiles, run: RunFolder) -> Inventory | None:
    return _read(files, run.path("inventory.json"), partial(Inventory.model_validate, extra="ignore"))


def _by_file(files: RunFiles, run: RunFolder, folder: str, validate: Callable[[Any], T]) -> dict[str, T]:
    """Read the records of a folder, one a host or class, by the names of their files."""
    paths = sorted(run.folder.glob(f"{folder}/*.json"))
    return {path.stem: record for path in paths if (record := _read(files, path, validate))}


def _read_times(files: RunFiles, run: RunFolder) -> None:
    """Read the seconds of the run and of each phase from its events."""
    last = files.started_at
    for event in run.events():
        last = str(event.get("at") or last)
        if event.get("kind") == "phase" and event.get("phase"):
            phase, seconds = str(event["phase"]), event.get("seconds")
            spent = float(seconds) if isinstance(seconds, (int, float)) and math.isfinite(seconds) else 0.0
            files.phase_seconds[phase] = round(files.phase_seconds.get(phase, 0.0) + spent, 3)
    # the run may belong to another process, so only recorded times are known
    files.seconds = max(files.seconds, seconds_between(files.started_at, last) or 0.0)


def seconds_between(start: str, end: str) -> float | None:
    """Return the seconds between two ISO 8601 times; None when either is malformed."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
    except (ValueError, TypeError):
        return None


def _read(files: RunFiles, path: Path, validate: Callable[[Any], T]) -> T | None:
    """Read a JSON file; None if it is missing, null, or unreadable, which is noted."""
    if not path.exists():
        return None
    try:
        document = parse(path.read_bytes())
        return None if document is None else validate(document)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = str(error)
    files.unreadable.append(f"{path.parent.name}/{path.name} could not be read: {reason}")
    return None

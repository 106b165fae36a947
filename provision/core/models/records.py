"""What the phases report: one result a host and phase, and the summary made of them (docs/reference/summary.md)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from provision.core.models.base import Record
from provision.core.models.stack import Reason, Stack

PhaseName = Literal["probe", "plan", "stage", "install", "verify", "serve"]
PHASES: tuple[PhaseName, ...] = ("probe", "plan", "stage", "install", "verify", "serve")


class PhaseResult(Record):
    """How one phase ended for one host."""

    host: str
    phase: PhaseName
    status: Literal["ok", "warn", "failed", "skipped", "unreachable", "interrupted"]
    seconds: float = 0.0
    changed: bool = False
    text: str | None = None
    """One sentence: what failed with which values, or why it was skipped."""
    hint: str | None = None
    evidence: tuple[str, ...] = ()
    cause: str | None = None
    """The doctor's name of what failed, where the phase itself knows it; else its text is diagnosed."""


class Figure(Record):
    name: str
    value: float | None
    unit: str
    floor: float | None = None
    ceiling: float | None = None
    source: str | None = None


class CheckRecord(Record):
    """One check as `verify --json` gives it."""

    id: str
    family: str
    status: Literal["ok", "warn", "fail", "skip", "error"]
    host: str | None = None
    device: str | None = None
    reason: str = ""
    figures: tuple[Figure, ...] = ()
    evidence: Any = None
    remedy: str | None = None
    seconds: float = 0.0
    level: Literal["quick", "standard", "full"] | None = None
    """How deeply it looked."""
    found: dict[str, str | None] | None = None
    """Of a failure that an earlier run found and none as deep has refuted: `at` and `environment` of that run."""


class AttentionProof(Record):
    asked: str | None = None
    used: str | None = None
    generation: int | None = None
    evidence: tuple[str, ...] = ()


class ServeRecord(Record):
    """What readiness proved on a host: written by the host-side proof, read by the summary."""

    endpoint: str | None = None
    ready: bool = False
    attention: AttentionProof = AttentionProof()
    tokens_expected: tuple[int, ...] = ()
    tokens_answered: tuple[int, ...] = ()
    startup_s: dict[str, float] = Field(default_factory=dict)
    """Seconds from the start of the service to the end of each phase: imports, weights, graphs, health, first_token ..."""
    text: str | None = None
    evidence: tuple[str, ...] = ()


class Finding(Record):
    cause: str
    confidence: float
    evidence: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()


DifferencePart = Literal["settings", "stack", "lock", "facts", "checks", "figures", "state"]
"""Where a difference lies; in the order in which a person looks for what was done."""


class Change(Record):
    """One thing that was otherwise before; null is absent there."""

    part: DifferencePart
    name: str
    """Dotted path of a fact, setting or part of the Stack; a distribution; a check."""
    before: Any = None
    after: Any = None
    unit: str | None = None
    """Of figures."""
    text: str | None = None
    """What it means, where values alone do not say it."""


class HostDifference(Record):
    """What changed on one host between two runs."""

    host: str
    before: str | None
    """Name of the earlier run; null where there is none to compare with."""
    after: str
    changes: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()
    """Parts that one of the runs did not come to, so that nobody can tell: `lock, facts: not in run RUN`."""


HostState = Literal[
    "serving",
    "installed",
    "unchanged",
    "stopped",
    "removed",
    "failed",
    "unreachable",
    "interrupted",
    "planned",
    "probed",
]
"""How a host came out of a run."""
GREEN_STATES: tuple[HostState, ...] = ("serving", "installed", "unchanged")


class HostSummary(Record):
    name: str
    state: HostState
    changed: bool
    phases: dict[PhaseName, PhaseResult] = Field(default_factory=dict)
    """By name, in the order of the phases; a phase that was not reached is missing."""
    stack: Stack | None = None
    reasons: tuple[Reason, ...] = ()
    """Why this Stack: the rules that chose it, and one refusal for every candidate that ranked before it."""
    devices: tuple[str, ...] = ()
    checks: tuple[CheckRecord, ...] = ()
    checks_at: str | None = None
    """When the checks ran: of an earlier run when nothing changed."""
    prefix: str | None = None
    endpoint: str | None = None
    key_file: str | None = None
    """Where the API key lies on the host; null when the endpoint wants none."""
    call: tuple[str, ...] = ()
    """Commands that ask the endpoint, as typed on the controller."""
    attention: AttentionProof = AttentionProof()
    serve: ServeRecord | None = None
    findings: tuple[Finding, ...] = ()
    deviations: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What is worth knowing and no warning: an assumption of the plan, an index that was left out."""
    since_green: HostDifference | None = None
    """Of a host that failed: what changed since the last run in which it was green."""


class Summary(Record):
    schema_version: Literal[2] = 2
    run: str
    command: str
    started_at: str
    verdict: Literal["red", "amber", "green"]
    changed: int
    seconds: float
    hosts: tuple[HostSummary, ...]
    host_comparison: tuple[CheckRecord, ...] = ()
    """What the hosts' checks say side by side, of two hosts or more that were checked in this run."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    dispatch: dict[str, float] = Field(default_factory=dict)
    """Of the fan-out: tasks, wait_p50_ms, wait_p99_ms, tasks_per_s."""
    interrupted: bool = False
    next_commands: tuple[str, ...] = ()

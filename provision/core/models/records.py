"""Results of phases, and the summary made from them (docs/reference/summary.md)."""

from typing import Any, Literal

from pydantic import Field

from provision.core.models.base import Record
from provision.core.models.stack import Reason, Stack

PhaseName = Literal["probe", "plan", "stage", "install", "verify", "serve"]
PHASES: tuple[PhaseName, ...] = ("probe", "plan", "stage", "install", "verify", "serve")


class Transfers(Record):
    """Where the files of a run's hosts came from, in bytes."""

    controller: int = 0
    peers: int = 0
    host: int = 0
    """Fetched by hosts themselves, from an index or a hub."""
    path: int = 0
    """Copied by hosts from a folder that they have."""
    from_peers: tuple[str, ...] = ()
    """Hosts that got files from another host."""
    short: tuple[str, ...] = ()
    """Hosts that the controller sent files to which their own source did not give."""
    refused: tuple[str, ...] = ()
    """Hosts that the controller sent files to, since another host did not hand them on."""
    reason: str = ""
    """Why hosts hand files on, or do not."""


Part = Literal[
    "driver", "packages", "python", "account", "environment", "image", "model", "service", "tools", "files", "checks"
]


class PlannedChange(Record):
    """One change that a run would make on a host."""

    part: Part
    sign: Literal["+", "~", "-", "?"]
    """New, changed, removed, or not known before the set is locked."""
    text: str
    send_bytes: int = Field(default=0, ge=0)
    """Bytes that are sent to the host for it."""


class PhaseResult(Record):
    """Result of one phase on one host."""

    host: str
    phase: PhaseName
    status: Literal["ok", "warn", "failed", "skipped", "unreachable", "interrupted", "quarantined"]
    seconds: float = 0.0
    changed: bool = False
    text: str | None = None
    """One sentence: what failed with which values, or why the phase was skipped."""
    hint: str | None = None
    evidence: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Remarks that are no warnings."""
    cause: str | None = None
    """Cause id, where the phase knows it; else the text is diagnosed."""

    @property
    def has_failed(self) -> bool:
        """Whether the host did not come to the end of the phase."""
        return self.status in ("failed", "unreachable", "interrupted")


class Figure(Record):
    name: str
    value: float | None
    unit: str
    floor: float | None = None
    ceiling: float | None = None
    source: str | None = None


class CheckRecord(Record):
    """One check as in `verify --json`."""

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
    level: Literal["quick", "standard", "full", "burn-in"] | None = None
    """Level at which the check ran."""
    found: dict[str, str | None] | None = None
    """`at` and `environment` of an earlier run, for a failure that no check of the same depth has refuted since."""


class AttentionProof(Record):
    asked: str | None = None
    used: str | None = None
    generation: int | None = None
    evidence: tuple[str, ...] = ()


Task = Literal["generate", "embed", "score"]
"""What a model makes: text, embeddings of texts, or scores of pairs of texts."""


class ServeRecord(Record):
    """Result of the readiness proof on a host."""

    endpoint: str | None = None
    model: str | None = None
    """Name of the model in the API."""
    task: Task = "generate"
    chat: bool | None = None
    """Whether it answers a chat; a model without a chat template only completes texts."""
    adapters: tuple[str, ...] = ()
    """Names of its LoRA adapters in the API."""
    ready: bool = False
    attention: AttentionProof = AttentionProof()
    tokens_expected: tuple[int, ...] = ()
    tokens_answered: tuple[int, ...] = ()
    startup_s: dict[str, float] = Field(default_factory=dict)
    """Seconds from the start of the service to the end of each phase: imports, weights, graphs, health, first_token ..."""
    text: str | None = None
    evidence: tuple[str, ...] = ()


class ReleaseRecord(Record):
    """The release of a host after a run."""

    release: str | None
    """Digest; None where it is unknown."""
    refused: str | None = None
    """Digest of the release whose start failed in this run, which the host left again."""
    rolled_back: tuple[str, ...] = ()
    """What a rollback changed, each as `NAME FROM -> TO`."""


class GatewayRecord(Record):
    """What clients of a gateway have to know."""

    endpoint: str
    models: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Hosts behind it by the model that they serve."""
    out: dict[str, str] = Field(default_factory=dict)
    """Why hosts behind it get no requests, by their names."""
    clients: tuple[str, ...] = ()
    """Names of the clients that have a key."""
    key_file: str
    """File on the host with the keys of clients."""
    fingerprint: str | None = None
    """SHA-256 of its certificate; None without TLS."""
    self_signed: bool = False


class MonitoringRecord(Record):
    """What a monitoring host reads, and where it shows that."""

    prometheus: str
    """Address of Prometheus, as the host itself reaches it."""
    alertmanager: str
    """Address of Alertmanager, as the host itself reaches it."""
    targets: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Hosts by kind: vllm, node, cards (exporters of GPU vendors), gateway, probe (a gateway from outside)."""
    missing: dict[str, str] = Field(default_factory=dict)
    """Why metrics of a host are missing, by its name."""


class Finding(Record):
    cause: str
    confidence: float
    evidence: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()


DifferencePart = Literal["settings", "stack", "lock", "facts", "checks", "figures", "state"]
"""Kind of a difference, in the order in which causes are looked for."""


class Change(Record):
    """One changed value; None means absent."""

    part: DifferencePart
    name: str
    """Dotted path of a fact, setting or part of the Stack; a distribution; a check."""
    before: Any = None
    after: Any = None
    unit: str | None = None
    """Unit of a figure."""
    text: str | None = None
    """Meaning, where the values do not show it."""


class HostDifference(Record):
    """What changed on one host between two runs."""

    host: str
    before: str | None
    """Name of the earlier run; None without one."""
    after: str
    changes: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()
    """Parts that one of the runs did not reach: `lock, facts: not in run RUN`."""


HostState = Literal[
    "serving",
    "installed",
    "unchanged",
    "stopped",
    "removed",
    "failed",
    "unreachable",
    "interrupted",
    "quarantined",
    "planned",
    "probed",
]
"""State of a host after a run."""
GREEN_STATES: tuple[HostState, ...] = ("serving", "installed", "unchanged")
ENDED_BADLY: tuple[HostState, ...] = ("failed", "unreachable", "interrupted")


class HostSummary(Record):
    name: str
    state: HostState
    changed: bool
    phases: dict[PhaseName, PhaseResult] = Field(default_factory=dict)
    """By name, in order; phases that were not reached are missing."""
    stack: Stack | None = None
    reasons: tuple[Reason, ...] = ()
    """Rules that chose the Stack, and one refusal for every better-ranked candidate."""
    devices: tuple[str, ...] = ()
    checks: tuple[CheckRecord, ...] = ()
    checks_at: str | None = None
    """Time of the checks: an earlier run when nothing changed."""
    prefix: str | None = None
    release: str | None = None
    """Digest of the release that the host has after the run; None where it has none, or it is unknown."""
    refused: str | None = None
    """Digest of the release whose start failed in this run, which the host left again."""
    rolled_back: tuple[str, ...] = ()
    """What a rollback changed: `vLLM 0.32.0 -> 0.31.0`, `port 8001 -> 8000`; empty in other runs."""
    earlier_release: str | None = None
    """Digest of the release that `./firstlight rollback` leads to; None where there is none."""
    model: str | None = None
    """Name of the model in the API."""
    endpoint: str | None = None
    key_file: str | None = None
    """File on the host with the API key; None when none is required."""
    call: tuple[str, ...] = ()
    """Commands that send a prompt from the controller: through the gateway of this host, else to its endpoint."""
    attention: AttentionProof = AttentionProof()
    serve: ServeRecord | None = None
    gateway: GatewayRecord | None = None
    monitoring: MonitoringRecord | None = None
    findings: tuple[Finding, ...] = ()
    deviations: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Remarks that are no warnings: an assumption of the plan, an omitted index, a restart under requests."""
    since_green: HostDifference | None = None
    """For a failed host: what changed since its last green run."""

    @property
    def has_warnings(self) -> bool:
        """Whether the host makes its run amber."""
        return bool(self.deviations or self.warnings or any(check.status == "warn" for check in self.checks))


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
    """Checks that compare hosts, when at least two were checked in this run."""
    phase_seconds: dict[str, float] = Field(default_factory=dict)
    transfers: Transfers | None = None
    """Bytes that hosts were sent, by source; None where the run did not come to that."""
    interrupted: bool = False
    next_commands: tuple[str, ...] = ()

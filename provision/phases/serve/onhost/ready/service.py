"""What the controller asks, and the state of the service, from its supervisor."""

from __future__ import annotations

import os
import xmlrpc.client
from dataclasses import dataclass, field
from pathlib import Path

from verify.files import printed
from verify.serving.client import Client
from verify.serving.service import Service, stat_fields
from verify.serving.service_control import ControlError, supervisord

ANSWER_TIMEOUT_S = 300.0
"""Seconds: the first answer of a large model may wait for kernels that are compiled on first use."""
SUPERVISORD_S = 10.0
PEER_LOST = "75"
"""Exit status of span.pyz when another host was lost or stopped."""


@dataclass(frozen=True)
class ReadinessRequest:
    """What the controller wants to have proven."""

    prefix: str
    supervisor: str
    unit: str
    host: str
    port: int
    served_name: str
    asked: str
    processes: int
    model_folder: str
    slice_s: float
    generation: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    """The variables that the back end needs in every engine process."""
    kernels: list[str] = field(default_factory=list)
    """The kernels that the plan expects for experts and weights of 4 bits."""
    task: str = "generate"
    """What the model makes: text, embeddings (`embed`), or scores of pairs of texts (`score`)."""
    pooling: list[str] = field(default_factory=list)
    """Options of the user that change how it makes vectors."""
    reference: str | None = None
    """File of the reference answer; None for a user's model that makes text."""
    adapters: list[str] = field(default_factory=list)
    """Names of the model's LoRA adapters in the API."""
    in_span: bool = False
    """Whether several hosts serve the model: the service may start again since another host of its span was lost."""
    headless: bool = False
    """Whether another host answers the requests."""
    is_kept: bool = True
    """Whether a proof is kept for later runs."""
    release: str = ""
    """Digest of the release; services with an equal value compute the same."""
    started_here: bool = False
    """Whether an earlier slice of this proof found that the service did not answer yet."""
    main_pid: int = 0
    """The server's process in an earlier slice of this proof; 0 in the first one."""
    start_id: str | None = None

    def service(self, main_pid: int | None = None) -> Service:
        """Return the service, whose server has that process."""
        return Service(Path(self.prefix), vars(self), main_pid)

    def client(self, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Client:
        """Return a client of the service, with its key."""
        service = self.service()
        try:
            key = service.api_key()
        except OSError:  # then the service does not start either, and says so
            key = None
        return Client(service.endpoint, timeout_s, key)


@dataclass(frozen=True)
class ServiceState:
    main_pid: int
    start_id: str | None
    died: str | None
    """None while it runs or starts; else how it ended."""


def service_state(request: ReadinessRequest, seen: ServiceState) -> ServiceState:
    """Return the state of the service. A service that restarted since `seen` counts as dead."""
    now = supervisor_state(request) if request.supervisor == "supervisor" else systemd_state(request)
    if now.died or request.in_span or not seen.main_pid or now.main_pid == seen.main_pid:
        # A dead service has no process; the earlier PID finds its log.
        return ServiceState(now.main_pid or seen.main_pid, now.start_id or seen.start_id, now.died)
    return ServiceState(
        seen.main_pid, seen.start_id, f"{request.unit} ended while it started; its supervisor is starting it again"
    )


def systemd_state(request: ReadinessRequest) -> ServiceState:
    names = "ActiveState,SubState,MainPID,InvocationID,Result,ExecMainStatus"
    output = run(["systemctl", *scope(request), "show", request.unit, f"--property={names}"])
    values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    active, sub = values.get("ActiveState", "unknown"), values.get("SubState", "")
    died = None
    meets_again = request.in_span and sub == "auto-restart" and values.get("ExecMainStatus") == PEER_LOST
    if active in {"failed", "inactive", "unknown"} or (sub == "auto-restart" and not meets_again):
        died = f"{request.unit} is {active} ({sub or 'no state'}), result {values.get('Result', '?')}, exit status {values.get('ExecMainStatus', '?')}"
    return ServiceState(int(values.get("MainPID") or 0), values.get("InvocationID") or None, died)


def scope(request: ReadinessRequest) -> list[str]:
    return ["--user"] if request.supervisor == "systemd-user" else []


def supervisor_state(request: ReadinessRequest) -> ServiceState:
    try:
        facts = supervisord(request.service(), "getProcessInfo", request.unit, limit_s=SUPERVISORD_S)
    except (ControlError, xmlrpc.client.Error) as problem:
        return ServiceState(0, None, f"{request.unit}: {problem}")
    state = facts["statename"]
    died = (
        f"{request.unit} is {state}: {facts['spawnerr'] or facts['description']}"
        if state not in {"STARTING", "RUNNING"}
        else None
    )
    return ServiceState(int(facts["pid"]), None, died)


def run(command: list[str]) -> str:
    """Return the standard output of a command; empty when it fails or hangs."""
    return printed(command, limit_s=20.0) or ""


def age_of(pid: int) -> float | None:
    """Return the seconds since a process started; None when there is no such process."""
    found = stat_fields(pid)
    if not found:
        return None
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - int(found[19]) / os.sysconf("SC_CLK_TCK")

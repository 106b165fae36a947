"""What hosts say that they serve, for what stands around them: gateways, monitoring, firewalls."""

import json
import re
from dataclasses import dataclass, field

from provision.core.models.records import Task
from provision.core.redaction import register_secret
from provision.fleet.ssh import Session
from provision.run.context import RunContext
from provision.run.results import ProbedHosts

READ_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Served:
    """What one host says that it serves."""

    model: str
    bind: str
    port: int
    key: str | None = field(repr=False)
    unit: str | None = None
    """Its unit of systemd; None where something else keeps it running, or the account is not root's."""
    health_port: int | None = None
    """Port of its health agent; None where it has none."""
    adapters: tuple[str, ...] = ()
    """Names of the model's LoRA adapters in the API."""
    task: Task = "generate"


def served_of(state: str, environment: str) -> Served | None:
    """Return what a host serves, from its state.json and its service.env, which has the key; None where it is to serve nothing."""
    readiness = json.loads(state).get("readiness")
    if not readiness:
        return None
    key = re.search(r"^VLLM_API_KEY=(\S+)$", environment, re.MULTILINE)
    unit = readiness.get("unit") if readiness.get("supervisor") == "systemd" else None
    adapters = tuple(readiness.get("adapters", ()))
    host, port = readiness["host"], readiness["port"]
    name, task = readiness["served_name"], readiness.get("task", "generate")
    return Served(name, host, port, key[1] if key else None, unit, adapters=adapters, task=task)


def ask_served(context: RunContext, probed: ProbedHosts) -> dict[str, Served | None]:
    """Return what each host that answers serves, by name; None where it serves nothing. Its API key is registered as a secret."""
    return context.run_on_hosts(
        "serve",
        [
            host
            for host in context.inventory.hosts
            if host.is_serving and host.name not in context.outcomes.left_out and not context.has_failed(host.name)
        ],
        lambda host: _read_served(
            context.session(host), probed.install_paths[host.name].prefix, root=probed.install_paths[host.name].root
        ),
        deadline_s=READ_DEADLINE_S,
    )


def _read_served(session: Session, prefix: str, *, root: bool) -> Served | None:
    try:
        state = session.read(f"{prefix}/state.json", root=root).decode()
        environment = session.read(f"{prefix}/etc/service.env", root=root).decode()
    except FileNotFoundError:
        return None
    served = served_of(state, environment)
    if served is not None and served.key is not None:
        register_secret(served.key)
    return served

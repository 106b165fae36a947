"""The phase serve as a step of a run: what was verified goes live, and is proven to answer right."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from provision.core.errors import Exit
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult, ServeRecord
from provision.core.models.settings import Host
from provision.pipeline import playbooks
from provision.pipeline.context import RunContext
from provision.pipeline.desired_state import Desired
from provision.pipeline.verify import refute

PROVE_DEADLINE_S = 3600.0


def serve(context: RunContext) -> None:
    """Switch to the verified environment, start the service, and prove that it answers right."""
    started = time.monotonic()
    resting = [host for host in context.hosts() if host.name in context.up_to_date]
    played = playbooks.run_playbook(context, "serve", "serve", context.working(), context.variables)
    unproven = {host.name for host in resting if not proven(context.desired[host.name], context.facts[host.name])}
    for host in resting:
        if host.name not in unproven:
            _carry(context, host.name)
            text = "serves since its last proof" if serves(context, host) else "nothing to serve"
            context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text))
    for name, result in played.items():
        if not serves(context, context.host(name)):
            context.record(result.model_copy(update={"phase": "serve"}))
    asked = [
        host for host in context.hosts() if serves(context, host) and (host.name in played or host.name in unproven)
    ]
    requests = {host.name: context.desired[host.name].state["readiness"] for host in asked}
    prove(context, asked, requests, played, started)
    refute(context, [host.name for host in context.hosts() if host.name in played])


def _carry(context: RunContext, name: str) -> None:
    """The last proof stands for a service that has run ever since: it goes into this run's files too."""
    installed = context.facts[name].installed
    record = ((installed.last_ready if installed else None) or {}).get("record")
    if record is not None:
        context.run.write(f"serve/{name}.json", record)


def serves(context: RunContext, host: Host) -> bool:
    """Whether a host is to serve at all."""
    return context.desired[host.name].service.supervisor != "none"


def proven(desired: Desired, facts: HostFacts) -> bool:
    """Whether the service process that runs now is the one that the last proof was of."""
    if desired.service.supervisor == "none":
        return True
    installed = facts.installed
    ready = (installed.last_ready if installed else None) or {}
    if installed is None or not ready:
        return False
    process = (installed.service_pid, installed.service_start_ticks, facts.os.boot_id)
    return (ready.get("main_pid"), ready.get("start_ticks"), ready.get("boot_id")) == process


def prove(
    context: RunContext,
    hosts: Sequence[Host],
    requests: Mapping[str, dict[str, Any]],
    played: Mapping[str, PhaseResult],
    started: float,
) -> None:
    """Wait for each service and have it answer; what is not right fails the host."""
    from provision.phases.serve.readiness import prove as prove_service  # noqa: PLC0415 - only runs that serve pay for it

    def call(host: Host) -> ServeRecord:
        paths = context.install_paths[host.name]
        return prove_service(
            context.session(host),
            prefix=paths.prefix,
            root=paths.root,
            request=requests[host.name],
            deadline_s=PROVE_DEADLINE_S,
            progress=lambda text: context.progress.note(host.name, text),
        )

    for name, record in context.run_on_hosts("serve", hosts, call, deadline_s=PROVE_DEADLINE_S + 60).items():
        context.run.write(f"serve/{name}.json", record)
        if record.ready:
            context.run.change(
                "proof", host=name, path=f"{context.install_paths[name].prefix}/verify/ready.json", changed=True
            )
        if not record.ready:
            context.failures.add(Exit.RED)
        context.record(
            PhaseResult(
                host=name,
                phase="serve",
                status="ok" if record.ready else "failed",
                seconds=round(time.monotonic() - started, 3),
                changed=name in played and played[name].changed,
                text=record.text,
                hint=None if record.ready else "its log says more; to go back: ./firstlight rollback",
                evidence=record.evidence,
            )
        )

"""The phase `serve`: what was verified goes live, and its answers are checked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from provision.core.errors import Exit
from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult, ServeRecord
from provision.core.models.settings import Host
from provision.pipeline import playbooks
from provision.pipeline.context import RunContext
from provision.pipeline.desired_state import Desired
from provision.pipeline.results import ProbedHosts, ServedHosts, StagedHosts, VerifiedHosts
from provision.pipeline.verify import check_again

PROVE_DEADLINE_S = 3600.0


def serve(context: RunContext, verified: VerifiedHosts) -> ServedHosts:
    """Switch to the verified environment, start the service, and prove that its answers are right."""
    started = time.monotonic()
    changing = [host for host in context.hosts() if host.name not in verified.up_to_date]
    unchanged = [host for host in context.hosts() if host.name in verified.up_to_date]
    restarted = playbooks.run_playbook(
        context, "serve", "serve", changing, lambda host: verified.desired[host.name].ansible_vars()
    )
    unproven = {host.name for host in unchanged if not proven(verified.desired[host.name], verified.facts[host.name])}
    for host in unchanged:
        if host.name not in unproven:
            _keep_last_proof(context, host.name, verified.facts[host.name])
            text = "serves since its last proof" if serves(verified, host.name) else "nothing to serve"
            context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text))
    for name, result in restarted.items():
        if not serves(verified, name):
            context.record(result.model_copy(update={"phase": "serve"}))
    requests = {
        host.name: verified.desired[host.name].state["readiness"]
        for host in context.hosts()
        if serves(verified, host.name) and (host.name in restarted or host.name in unproven)
    }
    records = prove(context, verified, requests, restarted, started)
    documents = check_again(context, verified, [host.name for host in context.hosts() if host.name in restarted])
    return ServedHosts(**{**vars(verified), "documents": {**verified.documents, **documents}}, served=records)


def _keep_last_proof(context: RunContext, name: str, facts: HostFacts) -> None:
    """Copy the last proof to this run's folder: it stays valid for a service that has run ever since."""
    installed = facts.installed
    record = ((installed.last_ready if installed else None) or {}).get("record")
    if record is not None:
        context.run.write(f"serve/{name}.json", record)


def serves(verified: StagedHosts, name: str) -> bool:
    """Return whether a host is to serve at all."""
    return verified.desired[name].service.supervisor != "none"


def proven(desired: Desired, facts: HostFacts) -> bool:
    """Return whether the last proof was of the service process that runs now."""
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
    probed: ProbedHosts,
    requests: Mapping[str, dict[str, Any]],
    restarted: Mapping[str, PhaseResult],
    started: float,
) -> dict[str, ServeRecord]:
    """Wait for services and check their answers; a host whose answer is wrong fails.

    Args:
        context: The run.
        probed: The hosts.
        requests: What each service has to answer, by host.
        restarted: The results of the playbook that restarted services.
        started: Monotonic time at which the phase began, in seconds.

    Returns:
        The records of the services that answered.
    """
    from provision.phases.serve.readiness import prove as prove_service

    def call(host: Host) -> ServeRecord:
        paths = probed.install_paths[host.name]
        return prove_service(
            context.session(host),
            prefix=paths.prefix,
            root=paths.root,
            request=requests[host.name],
            deadline_s=PROVE_DEADLINE_S,
            progress=lambda text: context.progress.note(host.name, text),
        )

    hosts = [host for host in context.hosts() if host.name in requests]
    records = context.run_on_hosts("serve", hosts, call, deadline_s=PROVE_DEADLINE_S + 60)
    for name, record in records.items():
        context.run.write(f"serve/{name}.json", record)
        if record.ready:
            context.run.change(
                "proof", host=name, path=f"{probed.install_paths[name].prefix}/verify/ready.json", changed=True
            )
        if not record.ready:
            context.failures.add(Exit.RED)
        context.record(
            PhaseResult(
                host=name,
                phase="serve",
                status="ok" if record.ready else "failed",
                seconds=round(time.monotonic() - started, 3),
                changed=name in restarted and restarted[name].changed,
                text=record.text,
                hint=None if record.ready else "see its log; to go back: ./firstlight rollback",
                evidence=record.evidence,
            )
        )
    return records

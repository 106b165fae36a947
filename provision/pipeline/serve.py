"""The phase `serve`: what was verified goes live, and its answers are checked."""

from __future__ import annotations

import time

from provision.core.models.facts import HostFacts
from provision.core.models.records import PhaseResult, ReleaseRecord
from provision.pipeline import playbooks, rollback
from provision.pipeline.context import RunContext
from provision.pipeline.desired_state import Desired
from provision.pipeline.install import changing
from provision.pipeline.proof import prove
from provision.pipeline.results import ServedHosts, StagedHosts, VerifiedHosts
from provision.pipeline.verify import check_again


def serve(context: RunContext, verified: VerifiedHosts) -> ServedHosts:
    """Switch to the verified release, start its service, and prove that its answers are right.

    Where the start fails, the host returns to the release that served before, if its settings say so.
    """
    started = time.monotonic()
    releases = {host.name: verified.desired[host.name].state["release"] for host in context.hosts()}
    switching = changing(context, verified)
    unchanged = [host for host in context.hosts() if host.name in verified.up_to_date]
    restarted = playbooks.run_playbook(
        context, "serve", "serve", switching, lambda host: verified.desired[host.name].ansible_vars()
    )
    unproven = {host.name for host in unchanged if not proven(verified.desired[host.name], verified.facts[host.name])}
    for host in unchanged:
        if host.name not in unproven:
            _keep_last_proof(context, host.name, verified.facts[host.name])
            text = "serves since its last proof" if serves(verified, host.name) else "nothing to serve"
            context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text))
    for host in switching:
        # After a failed playbook nobody has seen which release the host has.
        release = releases[host.name] if host.name in restarted else None
        rollback.note_release(context, host.name, ReleaseRecord(release=release))
    for name, result in restarted.items():
        if not serves(verified, name):
            context.record(result.model_copy(update={"phase": "serve"}))
    requests = {
        host.name: verified.desired[host.name].state["readiness"]
        for host in context.hosts()
        if serves(verified, host.name) and (host.name in restarted or host.name in unproven)
    }
    records = prove(context, verified, requests, restarted, started)
    rollback.return_refused(context, verified, releases)
    rollback.prune(context, verified, {name: releases[name] for name in (*restarted, *requests)})
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

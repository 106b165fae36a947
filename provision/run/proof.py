"""Proofs of services: each is asked until its answers are right, or wrong."""

import time
from collections.abc import Mapping
from typing import Any

from provision.core.errors import Exit
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult, ServeRecord
from provision.phases.serve.readiness import prove as prove_service
from provision.run import spans
from provision.run.context import RunContext
from provision.run.results import ProbedHosts

PROVE_DEADLINE_S = 3600.0


def ask(context: RunContext, probed: ProbedHosts, requests: Mapping[str, dict[str, Any]]) -> dict[str, ServeRecord]:

    def call(host: Host) -> ServeRecord:
        context.progress.current(host.name, "Wait for the engine, and check its answers")
        paths = probed.install_paths[host.name]
        return prove_service(
            context.session(host),
            prefix=paths.prefix,
            root=paths.root,
            request=requests[host.name],
            deadline_s=PROVE_DEADLINE_S,
            progress=lambda text: context.progress.detail(host.name, text),
        )

    hosts = [host for host in context.inventory.hosts if host.name in requests]
    records = context.run_on_hosts("serve", hosts, call, deadline_s=PROVE_DEADLINE_S + 60)
    for name, record in records.items():
        if record.ready:
            path = f"{probed.install_paths[name].prefix}/verify/ready.json"
            context.run.change("proof", host=name, path=path, changed=True)
    return records


def ask_in_order(
    context: RunContext, probed: ProbedHosts, requests: Mapping[str, dict[str, Any]]
) -> dict[str, ServeRecord]:
    """Wait for services, check their answers, and return the records of the hosts that could be asked.

    Other hosts of a span are proven by the answers of its head, and asked for their attention after it.
    """
    members = {name: request for name, request in requests.items() if request.get("headless")}
    records = ask(context, probed, {name: request for name, request in requests.items() if name not in members})
    ready = {name for name, record in records.items() if record.ready}
    # Where the head is not proven the release is not: each host can go back from it.
    headless = {
        name: {**one, "is_kept": (head := context.host(name).head) in ready or head not in requests}
        for name, one in members.items()
    }
    return spans.with_one_verdict(context, requests, records | ask(context, probed, headless))


def prove(
    context: RunContext,
    probed: ProbedHosts,
    requests: Mapping[str, dict[str, Any]],
    restarted: Mapping[str, PhaseResult],
    started: float,
) -> dict[str, ServeRecord]:
    """Wait for services, check their answers, and return the records of those that answered; a host whose answer is wrong fails.

    Args:
        requests: What each service has to answer, by host.
        restarted: The results of the playbook that restarted services.
        started: Monotonic time at which the phase began, in seconds.
    """
    records = ask_in_order(context, probed, requests)
    for name, record in records.items():
        context.run.write(f"serve/{name}.json", record)
        if not record.ready:
            context.outcomes.failures.add(Exit.RED)
        context.record(
            PhaseResult(
                host=name,
                phase="serve",
                status="ok" if record.ready else "failed",
                seconds=round(time.monotonic() - started, 3),
                changed=name in restarted and restarted[name].changed,
                text=record.text,
                hint=None if record.ready else f"see why: ./firstlight doctor --limit {name}",
                evidence=record.evidence,
            )
        )
    return records

"""The room serve as a step of a walk: what was verified goes live, and is proven to answer right."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from provision.core.errors import Exit
from provision.core.models.facts import HostFacts
from provision.core.models.records import RoomResult, ServeRecord
from provision.core.models.settings import Host
from provision.pipeline import playbooks
from provision.pipeline.context import Walk
from provision.pipeline.desired_state import Desired
from provision.pipeline.verify import refute

PROVE_DEADLINE_S = 3600.0


def serve(walk: Walk) -> None:
    """Switch to the verified environment, start the service, and prove that it answers right."""
    started = time.monotonic()
    resting = [host for host in walk.hosts() if host.name in walk.at_rest]
    played = playbooks.play(walk, "serve", "serve", walk.working(), walk.variables)
    unproven = {host.name for host in resting if not proven(walk.desired[host.name], walk.facts[host.name])}
    for host in resting:
        if host.name not in unproven:
            _carry(walk, host.name)
            text = "serves since its last proof" if serves(walk, host) else "nothing to serve"
            walk.record(RoomResult(host=host.name, room="serve", status="skipped", text=text))
    for name, result in played.items():
        if not serves(walk, walk.host(name)):
            walk.record(result.model_copy(update={"room": "serve"}))
    asked = [host for host in walk.hosts() if serves(walk, host) and (host.name in played or host.name in unproven)]
    requests = {host.name: walk.desired[host.name].state["readiness"] for host in asked}
    prove(walk, asked, requests, played, started)
    refute(walk, [host.name for host in walk.hosts() if host.name in played])


def _carry(walk: Walk, name: str) -> None:
    """The last proof stands for a service that has run ever since: it goes into this run's files too."""
    installed = walk.facts[name].installed
    record = ((installed.last_ready if installed else None) or {}).get("record")
    if record is not None:
        walk.run.write(f"serve/{name}.json", record)


def serves(walk: Walk, host: Host) -> bool:
    """Whether a host is to serve at all."""
    return walk.desired[host.name].service.supervisor != "none"


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
    walk: Walk,
    hosts: Sequence[Host],
    requests: Mapping[str, dict[str, Any]],
    played: Mapping[str, RoomResult],
    started: float,
) -> None:
    """Wait for each service and have it answer; what is not right fails the host."""
    from provision.phases.serve.readiness import prove as prove_service  # noqa: PLC0415 - only walks that serve pay for it

    def call(host: Host) -> ServeRecord:
        place = walk.places[host.name]
        return prove_service(
            walk.session(host),
            prefix=place.prefix,
            root=place.root,
            request=requests[host.name],
            deadline_s=PROVE_DEADLINE_S,
            progress=lambda text: walk.progress.note(host.name, text),
        )

    for name, record in walk.each("serve", hosts, call, deadline_s=PROVE_DEADLINE_S + 60).items():
        walk.run.write(f"serve/{name}.json", record)
        if record.ready:
            walk.run.change("proof", host=name, path=f"{walk.places[name].prefix}/verify/ready.json", changed=True)
        if not record.ready:
            walk.failures.add(Exit.RED)
        walk.record(
            RoomResult(
                host=name,
                room="serve",
                status="ok" if record.ready else "failed",
                seconds=round(time.monotonic() - started, 3),
                changed=name in played and played[name].changed,
                text=record.text,
                hint=None if record.ready else "its log says more; to go back: ./firstlight rollback",
                evidence=record.evidence,
            )
        )

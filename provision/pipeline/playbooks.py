"""How steps change hosts: each is held first, by one run at a time, and then a playbook acts on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from provision.core.models.records import PhaseName, PhaseResult
from provision.core.models.settings import Host
from provision.fleet.locks import hold
from provision.pipeline.context import RunContext

HOLD_DEADLINE_S = 60.0


def acquire_locks(context: RunContext, phase: PhaseName, hosts: Sequence[Host]) -> None:
    """Hold every host until the run ends; one that another run holds fails here."""

    def call(host: Host) -> ExitStack:
        paths = context.install_paths[host.name]
        held = ExitStack()
        held.enter_context(hold(context.session(host), prefix=paths.prefix, run=context.run.name, root=paths.root))
        return held

    new = [host for host in hosts if host.name not in context.locked]
    for name, held in context.run_on_hosts(phase, new, call, deadline_s=HOLD_DEADLINE_S).items():
        context.locked.add(name)
        context.run.event("held", host=name, phase=phase)
        context.run.change("lock", host=name, path=f"{context.install_paths[name].prefix}/lock", changed=True)
        context.stack.enter_context(held)


def run_playbook(
    context: RunContext,
    playbook: str,
    phase: PhaseName,
    hosts: Sequence[Host],
    variables: Callable[[Host], Mapping[str, Any]],
    *,
    tags: Sequence[str] = (),
) -> dict[str, PhaseResult]:
    """Run a playbook on hosts, or the part of it that has the tags; what failed is recorded under the phase.

    Raises KeyboardInterrupt when the person ended it.
    """
    from provision.phases.install import Target  # noqa: PLC0415 - Ansible is needed only where something changes
    from provision.phases.install import install as run_playbook  # noqa: PLC0415 - Ansible is needed only where something changes

    targets = [Target(host, variables(host)) for host in hosts]
    results = (
        run_playbook(context.run, targets, playbook=playbook, tags=tags, progress=context.progress.note)
        if targets
        else {}
    )
    for name, result in results.items():
        context.run.event("playbook", host=name, phase=phase, playbook=playbook, status=result.status)
        if result.status not in ("ok", "warn"):
            context.reject(result.model_copy(update={"phase": phase}))
    if any(result.status == "interrupted" for result in results.values()):
        raise KeyboardInterrupt
    return {name: result for name, result in results.items() if result.status in ("ok", "warn")}

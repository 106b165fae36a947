"""Quarantine in a run: marks are read, written, and told to gateways."""

import json
from collections.abc import Sequence
from typing import TypeVar

from provision.core.errors import FirstlightError
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.features.gateway.draining import NotSetUpError, ask
from provision.features.quarantine.marks import NAME, Quarantine, QuarantineStore, mark_in_force
from provision.run.context import LeftOut, RunContext
from provision.run.results import ProbedHosts

HostsT = TypeVar("HostsT", bound=ProbedHosts)


def store_of(context: RunContext) -> QuarantineStore:
    """Return the marks that this controller keeps, beside its runs."""
    return QuarantineStore(context.run.folder.parent)


def because_of(host: Host, mark: Quarantine, reason: str | None = None) -> LeftOut:
    """Return why runs leave a host out, in the words of its mark unless others are given, and what lifts the mark."""
    hint = (
        f"repair the host; a full verification that is green lifts it: ./firstlight verify --limit {host.name} --return"
    )
    return LeftOut(reason or mark.sentence, hint, mark.model_dump())


def leave_out(context: RunContext, probed: HostsT) -> HostsT:
    """Leave quarantined hosts out of the rest of the run, each with its reason."""
    for host in context.hosts():
        mark = known_mark(context, probed, host)
        if mark is not None:
            out = context.outcomes.left_out[host.name] = because_of(host, mark)
            context.record(
                PhaseResult(host=host.name, phase="plan", status="quarantined", text=out.reason, hint=out.hint)
            )
    return probed


def known_mark(context: RunContext, probed: ProbedHosts, host: Host) -> Quarantine | None:
    """Return the mark in force of a host, and bring the controller's state up to date with what the host says."""
    store, facts = store_of(context), probed.facts.get(host.name)
    mark = mark_in_force(store, host, facts)
    if mark is None:
        store.forget(host)
    elif store.get(host) != mark:  # another controller marked it
        store.put(host, mark)
    return mark


def write_mark(context: RunContext, probed: ProbedHosts, host: Host, mark: Quarantine) -> str | None:
    """Write a mark on its host; return why that was not possible."""
    paths = probed.install_paths[host.name]
    text = json.dumps(mark.model_dump(mode="json"), indent=2) + "\n"
    try:
        context.session(host).write(f"{paths.prefix}/{NAME}", text.encode(), root=paths.root)
    except (FirstlightError, OSError) as error:
        return str(error)
    return None


def notify_gateways(context: RunContext, names: Sequence[str], *, drain: bool) -> None:
    """Let gateways that know marked hosts drain them, or those that do not know returned hosts any more forget that they were drained.

    A gateway that knows a returned host brings it back when a run has proven it; one that was set up without it forgets that it
    was drained, so that it takes requests once it is back.
    """
    gateways = context.options.find_gateways() if names else ()
    answers = ask(context, gateways)
    errors = dict(answers.errors)
    for host in [host for host in gateways if host.name in answers.traffics]:
        traffic = answers.traffics[host.name]
        if chosen := [name for name in names if (traffic.of(name) is not None) == drain]:
            reply = ask(context, [host], drain=chosen if drain else (), ready=() if drain else chosen, by="run")
            errors |= reply.errors
    for name, error in errors.items():
        if not isinstance(error, NotSetUpError):
            context.run.event("gateway-silent", host=name, phase="verify", text=str(error))

"""Quarantine: hosts whose hardware failed a check are marked at once, and take no part in later runs until they are returned to service."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from provision.core.errors import FirstlightError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.quarantine import Quarantine
from provision.core.models.records import PhaseResult
from provision.core.run_folder import utc_now
from provision.fleet.quarantine import QuarantineStore, in_force, mark_of
from provision.phases.verify.hardware import hardware_failure
from provision.pipeline.context import RunContext
from provision.pipeline.results import ProbedHosts
from provision.pipeline.traffic import NotSetUpError, ask

HostsT = TypeVar("HostsT", bound=ProbedHosts)
NAME = "quarantine.json"
"""The mark of a host, below its prefix."""


def store_of(context: RunContext) -> QuarantineStore:
    """Return the marks that this controller keeps, beside its runs."""
    return QuarantineStore(context.run.folder.parent)


def mark_in_force(store: QuarantineStore, host: Host, facts: HostFacts | None) -> Quarantine | None:
    """Return the mark in force of a host; None without one."""
    installed, kept = facts.installed if facts else None, store.get(host)
    on_host = mark_of(installed.quarantine, f"{installed.prefix}/{NAME}") if installed else None
    return in_force(on_host, kept.mark if kept else None)


def leave_out(context: RunContext, probed: HostsT) -> HostsT:
    """Leave quarantined hosts out of the rest of the run, each with its reason."""
    for host in context.hosts():
        mark = known_mark(context, probed, host)
        if mark is not None:
            context.quarantined[host.name] = mark
            context.record(
                PhaseResult(
                    host=host.name, phase="plan", status="quarantined", text=mark.sentence, hint=release_hint(host.name)
                )
            )
    return probed


def known_mark(context: RunContext, probed: ProbedHosts, host: Host) -> Quarantine | None:
    """Return the mark in force of a host, and bring the controller's state up to date with what the host says."""
    store, facts = store_of(context), probed.facts.get(host.name)
    mark = mark_in_force(store, host, facts)
    kept = store.get(host)
    if mark is None:
        store.forget(host)
    elif kept is None or kept.mark != mark:  # another controller marked it
        store.put(host, mark, on_host=True)
    return mark


def release_hint(name: str) -> str:
    """Return what lifts the mark of a host."""
    return f"repair the host; a full verification that is green lifts it: ./firstlight verify --limit {name} --return"


def mark_failed(context: RunContext, probed: ProbedHosts, host: Host, document: Mapping[str, Any]) -> None:
    """Mark a host whose hardware failed a check: first in the controller's state, which is always possible, then on itself.

    Args:
        context: The run.
        probed: The facts of its hosts.
        host: The host that was checked.
        document: Its checks.
    """
    failure = hardware_failure(document, probed.facts.get(host.name))
    if failure is None:
        return
    mark = Quarantine(
        at=utc_now(),
        check=failure.check,
        text=failure.text,
        card=failure.card,
        run=context.run.name,
        controller=platform.node(),
    )
    store = store_of(context)
    store.put(host, mark, on_host=False)
    context.quarantined[host.name] = mark
    refused = write_mark(context, probed, host, mark)
    if refused is None:
        store.put(host, mark, on_host=True)
    context.run.event("quarantine", host=host.name, phase="verify", text=mark.sentence, refused=refused)


def write_mark(context: RunContext, probed: ProbedHosts, host: Host, mark: Quarantine) -> str | None:
    """Write a mark on its host; return why that was not possible."""
    paths = probed.install_paths[host.name]
    text = json.dumps(mark.model_dump(mode="json"), indent=2) + "\n"
    try:
        context.session(host).write(f"{paths.prefix}/{NAME}", text.encode(), root=paths.root)
    except (FirstlightError, OSError) as error:
        return str(error)
    return None


def take_out_of_traffic(context: RunContext, names: Sequence[str]) -> None:
    """Let gateways give marked hosts no new requests; a run that proves a host after its release brings it back."""
    _notify_gateways(context, names, drain=True)


def forget_at_gateways(context: RunContext, names: Sequence[str]) -> None:
    """Let gateways that were set up without a returned host forget that it was drained, so that it takes requests once it is back."""
    _notify_gateways(context, names, drain=False)


def _notify_gateways(context: RunContext, names: Sequence[str], *, drain: bool) -> None:
    """Drain hosts at the gateways that know them, or take them back at those that do not know them any more."""
    gateways = context.options.find_gateways() if names else ()
    answers = ask(context, gateways)
    errors = dict(answers.errors)
    for host in gateways:
        if host.name in answers.traffics:
            chosen = [name for name in names if (answers.traffics[host.name].of(name) is not None) == drain]
            if chosen:
                reply = ask(context, [host], drain=chosen if drain else (), ready=() if drain else chosen, by="run")
                errors |= reply.errors
    for name, error in errors.items():
        if not isinstance(error, NotSetUpError):
            context.run.event("gateway-silent", host=name, phase="verify", text=str(error))


def with_mark(context: RunContext, result: PhaseResult) -> PhaseResult:
    """Return the result of a host's checks; that of a host which they marked says so."""
    mark = context.quarantined.get(result.host)
    if mark is None or mark.run != context.run.name:
        return result
    kept = store_of(context).get(context.host(result.host))
    where = "" if kept and kept.on_host else "; the mark could not be written on the host, this controller has it"
    note = f"quarantined: later runs leave it out{where}"
    return result.model_copy(
        update={
            "notes": (*result.notes, note),
            "hint": "; ".join(filter(None, (result.hint, release_hint(result.host)))),
        }
    )

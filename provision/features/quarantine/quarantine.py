"""Quarantine in a run: marks are read, written, told to gateways, and lifted by `verify --return` where all checks are green."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from provision.core.errors import FirstlightError
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.run_folder import utc_now
from provision.features.gateway.draining import ask
from provision.features.quarantine.marks import NAME, Quarantine, QuarantineStore, mark_in_force
from provision.phases.verify.run_checks import CheckOptions
from provision.phases.verify.step import verify_live
from provision.run.context import LeftOut, RunContext
from provision.run.results import CheckedHosts, Conclusion, HostsT, ProbedHosts


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
    store, facts = QuarantineStore(context.run.logs), probed.facts.get(host.name)
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
    silent = answers.silent
    for host in [host for host in gateways if host.name in answers.traffics]:
        traffic = answers.traffics[host.name]
        if chosen := [name for name in names if (traffic.of(name) is not None) == drain]:
            reply = ask(context, [host], drain=chosen if drain else (), ready=() if drain else chosen, by="run")
            silent |= reply.silent
    for name, error in silent.items():
        context.run.event("gateway-silent", host=name, phase="verify", text=str(error))


def return_to_service(context: RunContext, probed: ProbedHosts, options: CheckOptions) -> CheckedHosts:
    """Verify the quarantined hosts of a run, and lift the marks of those that are green; other hosts are not checked.

    The mark on the host is lifted first: if this controller dies before it forgets its own, the host says that it is over. No mark is lifted
    in an interrupted run.
    """
    marks = {host.name: mark for host in context.hosts() if (mark := known_mark(context, probed, host)) is not None}
    others = frozenset(host.name for host in context.hosts()) - marks.keys()
    for name in sorted(others):
        context.record(PhaseResult(host=name, phase="verify", status="skipped", text="it is not quarantined"))
    checked = verify_live(context, probed, options, names=frozenset(marks))
    stays: dict[str, str | None] = {}
    lines = []
    for name, mark in marks.items():
        document = checked.documents.get(name)
        stays[name] = "it was not checked" if document is None else why_not(document, mark)
        if stays[name] is None:
            stays[name] = _lift(context, probed, name, mark)
        note = f"stays quarantined: {stays[name]}" if stays[name] else "returned to service"
        result = context.outcomes.results[name]["verify"]
        context.record(result.model_copy(update={"notes": (*result.notes, note)}))
        lines.append(f"{name}: {note}")
    notify_gateways(context, [name for name, reason in stays.items() if reason is None], drain=False)
    said = tuple(lines or ["no host is quarantined"])
    conclusion = Conclusion({"stays_quarantined": stays}, said, is_green=not any(stays.values()))
    return replace(checked, left_out=others, conclusion=conclusion)


def why_not(document: Mapping[str, Any], mark: Quarantine) -> str | None:
    """Return why a full verification of a host does not lift its mark; None where it does."""
    checks = document["checks"]
    bad = next((check for check in checks if check["status"] not in ("ok", "skip")), None)
    if bad is not None:
        return f"check `{bad['id']}` ended with {bad['status']}: {bad['reason']}"
    # No record at all: this release has no such check any more.
    own = [check["status"] for check in checks if check["id"] == mark.check]
    if own and "ok" not in own:
        return f"check `{mark.check}`, which it was quarantined for, did not run"
    return None


def _lift(context: RunContext, probed: ProbedHosts, name: str, mark: Quarantine) -> str | None:
    """Lift a mark on its host, then here; return why that was not possible."""
    host = context.host(name)
    refused = write_mark(context, probed, host, mark.model_copy(update={"released_at": utc_now()}))
    if refused is not None:
        return f"its mark cannot be changed: {refused}"
    QuarantineStore(context.run.logs).forget(host)
    context.run.event("released", host=name, phase="verify", text=mark.sentence)
    return None

"""`verify --return`: quarantined hosts are verified in full; the mark of those that are green is lifted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from provision.core.models.records import PhaseResult
from provision.core.run_folder import utc_now
from provision.features.quarantine.marks import Quarantine
from provision.features.quarantine.quarantine import known_mark, notify_gateways, store_of, write_mark
from provision.phases.verify.run_checks import CheckOptions
from provision.phases.verify.step import verify_live
from provision.run.context import RunContext
from provision.run.results import CheckedHosts, Conclusion, ProbedHosts


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
    host, lifted = context.host(name), mark.model_copy(update={"released_at": utc_now()})
    refused = write_mark(context, probed, host, lifted)
    if refused is not None:
        return f"its mark cannot be changed: {refused}"
    store_of(context).forget(host)
    context.run.event("released", host=name, phase="verify", text=mark.sentence)
    return None

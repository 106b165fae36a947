"""devices.xid: Xid and SXid events in the kernel log."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from verify.host.card_health import INJECTED, skip_without_cards
from verify.host.views import kernel_log
from verify.host.views.kernel_log import Line
from verify.host.xid import Event, events, explained, meaning_of
from verify.records import CheckContext, CheckResult, Figure, Observation, Status, combine
from verify.runner.last_run import read_last_run, started_at

NEW: Mapping[str, Status] = {"card": "fail", "process": "warn", "note": "ok"}
KNOWN: Mapping[str, Status] = {"card": "warn", "process": "ok", "note": "ok"}
"""Status of a new event by kind. Events of earlier runs do not fail the check, so a repaired card becomes green again."""


def run(context: CheckContext) -> CheckResult:
    injected = Line(context.started, f"NVRM: Xid (PCI:{INJECTED[:-2]}): 79, GPU has fallen off the bus.")
    if "sick-gpu" in context.faults:
        return evaluate(events([injected]), known_until=0.0, source="injected")
    if skipped := skip_without_cards(context):
        return skipped
    try:
        found, source = kernel_log.lines()
    except kernel_log.UnreadableError as error:
        remedy = "run as root, or as a member of the groups adm and systemd-journal"
        return CheckResult("skip", f"cannot read the kernel log ({error})", remedy=remedy)
    return evaluate(events(found), known_until=started_at(read_last_run(context.prefix)), source=source)


def evaluate(found: Sequence[Event], *, known_until: float, source: str) -> CheckResult:
    """Evaluate events. Those before `known_until` were reported by an earlier run: they are shown, but do not fail this one."""
    found = sorted(found)
    new = [event for event in found if event.at > known_until]
    figures = (Figure("events since boot", len(found), "count"), Figure("new events", len(new), "count"))
    observations: list[Observation] = []
    for is_new, chosen in ((True, new), (False, found[: len(found) - len(new)])):
        group: dict[tuple[str, str, int], list[Event]] = defaultdict(list)
        for event in chosen:
            group[event.what, event.pci, event.number].append(event)
        observations += [_observation(group, is_new=is_new) for group in group.values()]
    evidence = {"source": source, "known until": known_until or None, "lines": [event.text for event in found[-50:]]}
    evidence["meanings"] = sorted({explained(event.text) or "" for event in found[-50:]})
    return combine(observations, "the kernel log has no fault of a GPU since boot", figures, evidence)


def _observation(group: Sequence[Event], *, is_new: bool) -> Observation:
    last = group[-1]
    _, kind, means, remedy = meaning_of(last)
    when = datetime.fromtimestamp(last.at, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    times = f", {len(group)} times" if len(group) > 1 else ""
    age = "new" if is_new else "known before this run"
    text = f"{last.what} {last.number} on {last.pci}: {means} ({age}, last {when}{times})"
    return Observation((NEW if is_new else KNOWN)[kind], text, remedy)

"""The summary for people: plain text, at most 100 columns, no colour; what matters most stands on the first screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from provision.models.records import ROOMS, HostSummary, Summary
from provision.report import phrases
from provision.report.advice import purpose
from provision.report.fold import FoldedCheck, Group, fold, fold_checks, merged, named
from provision.report.headlines import families
from provision.report.layout import COLUMNS, count, duration, number, split_at, table, width, wrap
from provision.report.phases import slowest_start
from provision.report.shell import command
from verify.records import NEEDS

MOST_REFUSALS = 6
MOST_SAID, MOST_EVIDENCE, MOST_HINT = 4, 4, 3
"""Lines of what failed: with the host's name and the doctor's finding they make 15."""
MOST_FAILURES = 4
MOST_CHANGES = 8
INDENT = "  "


def render(summary: Summary) -> str:
    """The whole text, ending in a newline."""
    groups = fold(summary.hosts)
    lines = [*wrap(phrases.headline(summary)), *wrap(phrases.facts_of_run(summary), first=INDENT)]
    for title, section in (
        ("What failed", _failures(summary)),
        ("Deviations from the plan", _remarks(groups, "deviations")),
        ("Next", _next(summary)),
        ("Changed since green", _changed(summary)),
        ("Hosts", _hosts(groups)),
        ("Hosts side by side", _side_by_side(summary)),
        ("Warnings", _warnings(groups)),
        ("Endpoint", _endpoints(summary, groups)),
        ("Attention", _each(summary, groups, _attention)),
        ("Checks", _each(summary, groups, lambda group: _checks(summary, group))),
        ("Devices", _each(summary, groups, _devices)),
        ("Stack", _each(summary, groups, _stack)),
        ("Notes", _remarks(groups, "notes")),
        ("Seconds", _seconds(summary)),
    ):
        body = list(section)
        if body:
            lines += ["", *wrap(title), *body]
    return "\n".join(lines) + "\n"


def _failures(summary: Summary) -> Iterable[str]:
    """The doctor's finding first, then what the room or the check said: at most 15 lines for one cause."""
    for group in phrases.wrong_groups(summary):
        yield from _short(group.names, 1, first=INDENT)
        for finding in group.first.findings[:1]:
            sure = f"{finding.confidence:.0%} sure"
            yield from _short(f"cause: {finding.cause} ({sure})", 1, first=INDENT * 2)
            for fix in finding.fix[:1]:
                yield from _short(f"fix: {fix}", 2, first=INDENT * 2)
        failures = list(phrases.failures(group))
        for said, hint, evidence in failures[:MOST_FAILURES]:
            yield from _short(said, MOST_SAID, first=INDENT * 2)
            for line in evidence[:MOST_EVIDENCE]:
                yield from _short(line, 1, first=INDENT * 2 + "| ")
            if hint:
                yield from _short(f"hint: {hint}", MOST_HINT, first=INDENT * 2)
        if len(failures) > MOST_FAILURES:
            yield f"{INDENT * 2}and {len(failures) - MOST_FAILURES} more: summary.md in the run's folder"


def _short(text: str, most: int, *, first: str) -> list[str]:
    """A text as lines, no more than `most`; dots where there was more, which summary.md has."""
    lines = wrap(text, first=first)
    if len(lines) > most:
        kept = lines[most - 1]
        head = kept[len(first) :] if most == 1 else kept.lstrip()
        lines[most - 1] = kept[: len(kept) - len(head)] + split_at(head, COLUMNS - len(first) - 4)[0].rstrip() + " ..."
    return lines[:most]


def _next(summary: Summary) -> Iterable[str]:
    names = [purpose(entry) for entry in summary.next_commands]
    widest = max(map(width, names), default=0)
    for name, entry in zip(names, summary.next_commands, strict=True):
        first, *rest = command(entry, indent=INDENT + " " * (widest + 2))
        yield INDENT + name.ljust(widest + 2) + first.lstrip()
        yield from rest


def _changed(summary: Summary) -> Iterable[str]:
    """Of hosts that failed: what is otherwise than in the run in which they were green last."""
    differences = [host.since_green for host in summary.hosts if host.since_green]
    if not differences:
        return
    from provision.report.difference.text import changes, folded  # noqa: PLC0415 - only a run that failed pays for it

    for names, entry in folded(differences):
        said = "" if entry.changes else "; nothing that is known changed"
        yield from wrap(f"{names}: since run {entry.before}{said}", first=INDENT)
        yield from changes(entry, indent=INDENT * 2, most=MOST_CHANGES)


def _hosts(groups: list[Group]) -> Iterable[str]:
    rows = []
    for group in groups:
        host = group.first
        number_of = f"{len(group.hosts)} hosts, " if len(group.hosts) > 1 else ""
        changed = "changed" if host.changed else "unchanged"
        words = host.state if host.state == changed else f"{host.state}, {changed}"
        rooms = [f"{room} {status}" for room in ROOMS if (status := _room_status(group, room))]
        rows.append(
            ((group.names, f"{number_of}{words}"), tuple(f"{entry}," for entry in rooms[:-1]) + tuple(rooms[-1:]))
        )
    return table(rows)


def _side_by_side(summary: Summary) -> Iterable[str]:
    return table([((status, check), said) for status, check, said in phrases.side_by_side(summary)])


def _room_status(group: Group, room: str) -> str:
    """Seconds where all went well (a range over the group), else the word."""
    results = [result for host in group.hosts for result in host.rooms if result.room == room]
    if not results:
        return ""
    if results[0].status != "ok":
        return results[0].status
    low, high = min(result.seconds for result in results), max(result.seconds for result in results)
    return duration(high) if duration(low) == duration(high) else f"{duration(low)} to {duration(high)}"


def _each(summary: Summary, groups: list[Group], body: Callable[[Group], Iterable[str]]) -> Iterable[str]:
    """A section's body for every group, under the names where there are several groups; equal bodies stand once."""
    for names, lines in merged([host.name for host in summary.hosts], groups, body):
        if len(groups) > 1:
            yield from wrap(f"{names}:", first=INDENT)
        yield from lines


def _remarks(groups: list[Group], attribute: str) -> Iterable[str]:
    for group in groups:
        for remark in getattr(group.first, attribute):
            yield from wrap(f"{group.names}: {remark}" if len(groups) > 1 else remark, first=INDENT)


def _warnings(groups: list[Group]) -> Iterable[str]:
    yield from _remarks(groups, "warnings")
    for group in groups:
        for said, hint in phrases.check_warnings(group):
            yield from wrap(f"{group.names}: {said}" if len(groups) > 1 else said, first=INDENT)
            if hint:
                yield from wrap(f"hint: {hint}", first=INDENT * 2)


def _endpoints(summary: Summary, groups: list[Group]) -> Iterable[str]:
    """Every endpoint, and the commands that ask it on the first host of each group."""
    for group in groups:
        for endpoint in dict.fromkeys(host.endpoint for host in group.hosts if host.endpoint):
            names = [host.name for host in group.hosts if host.endpoint == endpoint]
            said = f"{named(names, group.run)}: " if len(summary.hosts) > 1 else ""
            yield from wrap(f"{said}{endpoint}", first=INDENT)
        first = group.first
        if first.endpoint and first.key_file:
            yield from wrap(f"API key: in {first.key_file} on the host", first=INDENT)
        for entry in first.call:
            yield from command(entry, indent=INDENT * 2)


def _attention(group: Group) -> Iterable[str]:
    facts = phrases.attention_facts(group.first)
    if facts:
        yield from wrap(facts, first=INDENT)
        for line in group.first.attention.evidence[:MOST_EVIDENCE]:
            yield from wrap(line, first=INDENT * 2)
    for line in phrases.proof(group.first):
        yield from wrap(line, first=INDENT)


def _checks(summary: Summary, group: Group) -> Iterable[str]:
    """A line a family, then each check that did not pass; figures of the other ones stand in summary.md."""
    checks = fold_checks(group.hosts)
    if not checks:
        return
    totals: dict[str, int] = {}
    for check in checks:
        totals[check.status] = totals.get(check.status, 0) + check.count
    said = ", ".join(f"{total} {status}" for status, total in totals.items())
    age = phrases.verified_when(summary, group.first)
    yield from wrap(f"{said}; {age}" if age else said, first=INDENT)
    yield from table([((family, ended), told) for family, ended, told in families(group.hosts)], indent=INDENT * 2)
    yield from table([_check_row(check) for check in checks if check.status not in ("ok", "skip")], indent=INDENT * 2)
    yield from table(_skipped(checks), indent=INDENT * 2)


def _check_row(check: FoldedCheck) -> tuple[tuple[str, str], str]:
    told = "; ".join(filter(None, (check.reason, *check.figures)))
    times = f", {check.count} times" if check.count > 1 else ""
    return (check.status, check.id), f"{check.where}: {told}{times}" if check.where else f"{told}{times}"


def _skipped(checks: Iterable[FoldedCheck]) -> list[tuple[tuple[str, str], str]]:
    """Checks of a family that were skipped for one reason stand in one row, and all that need the same check."""
    alike: dict[tuple[str, str], list[str]] = {}
    for check in checks:
        if check.status == "skip":
            family, _, name = check.id.partition(".")
            key, told = (("checks", check.id)) if check.reason.startswith(NEEDS) else ((family, name))
            alike.setdefault((key, check.reason), []).append(told)
    return [
        (("skip", f"{len(names)} checks"), reason)
        if key == "checks"
        else (("skip", key), f"{reason} ({', '.join(names)})")
        for (key, reason), names in alike.items()
    ]


def _devices(group: Group) -> Iterable[str]:
    for device in group.first.devices:
        yield from wrap(device, first=INDENT)


def _stack(group: Group) -> Iterable[str]:
    host: HostSummary = group.first
    yield from table(((part,), build) for part, build in phrases.stack_facts(host))
    chosen = [reason for reason in host.reasons if reason.verdict != "reject"]
    refused: dict[str, list[str]] = {}
    for reason in host.reasons:
        if reason.verdict == "reject":
            refused.setdefault(reason.text, []).append(reason.candidate)
    if chosen:
        yield INDENT + "why"
        for reason in chosen:
            yield from wrap(f"{reason.rule}: {reason.text}", first=INDENT * 2, rest=INDENT * 3)
    if refused:
        yield INDENT + "refused"
        for text, candidates in list(refused.items())[:MOST_REFUSALS]:
            more = f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
            yield from wrap(f"{candidates[0]}{more}: {text}", first=INDENT * 2, rest=INDENT * 3)
        if len(refused) > MOST_REFUSALS:
            yield f"{INDENT * 2}and more, all of them: ./firstlight plan --explain"


def _seconds(summary: Summary) -> Iterable[str]:
    rooms = [f"{room} {duration(seconds)}" for room, seconds in summary.room_seconds.items()]
    if rooms:
        yield from wrap(", ".join(rooms) + f"; in all {duration(summary.seconds)}", first=INDENT)
    if started := slowest_start(summary):
        yield from wrap(started, first=INDENT)
    spread = summary.dispatch
    if "wait_p50_ms" in spread and "wait_p99_ms" in spread:
        tasks = f"{count(round(spread['tasks']), 'task')}: " if "tasks" in spread else ""
        rate = f", {number(spread['tasks_per_s'])} tasks/s" if "tasks_per_s" in spread else ""
        yield from wrap(
            f"dispatch of {tasks}p50 {number(spread['wait_p50_ms'])} ms, p99 {number(spread['wait_p99_ms'])} ms{rate}",
            first=INDENT,
        )

"""Summary as plain text of at most 100 columns: the first screen, a rule, then details."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from provision.core.formatting import format_bytes
from provision.core.models.records import PHASES, CheckRecord, HostSummary, PhaseName, Summary, Transfers
from provision.report import wording
from provision.report.difference.text import changes, grouped
from provision.report.failures import INDENT
from provision.report.group import (
    Group,
    GroupedCheck,
    group_endpoints,
    group_hosts,
    merged_sections,
    named,
    named_endpoint,
)
from provision.report.headlines import families
from provision.report.layout import count, duration, fold_names, table, width, wrap
from provision.report.next_steps import purpose
from provision.report.screen import RULE, first_screen
from provision.report.service_start import slowest_start
from provision.report.shell import command
from verify.records import NEEDS, inapplicable

MOST_REFUSALS = 6
MOST_EVIDENCE = 4
MOST_CHANGES = 8


def render(summary: Summary, groups: list[Group] | None = None) -> str:
    """Return the whole text, ending in a newline; `groups` are those of its hosts, where the caller has them."""
    groups = group_hosts(summary.hosts) if groups is None else groups
    screen = first_screen(summary, groups)
    lines = [*screen.lines, "", RULE, "Details"]
    for title, section in (
        ("What failed", screen.failed if "What failed" in screen.cut else ()),
        ("Warnings", _warnings(summary, groups) if "Warnings" in screen.cut else ()),
        ("Next", _next(summary) if "Next" in screen.cut else ()),
        ("Changed since green", _changed(summary)),
        ("Hosts", _hosts(groups)),
        ("Host comparison", _host_comparison(summary)),
        ("Gateway", _gateways(summary)),
        ("Endpoint", _endpoints(summary, groups)),
        ("Monitoring", _monitors(summary)),
        ("Attention", _each(summary, groups, _attention) if "Attention" in screen.cut else ()),
        ("Checks", _each(summary, groups, lambda group: _checks(summary, group))),
        ("Devices", _each(summary, groups, _devices)),
        ("Versions", _each(summary, groups, _stack)),
        ("Notes", _notes(groups)),
        ("Seconds", _seconds(summary)),
    ):
        body = list(section)
        if body:
            lines += ["", *wrap(title), *body]
    return "\n".join(lines) + "\n"


def _next(summary: Summary) -> Iterable[str]:
    names = [purpose(entry) for entry in summary.next_commands]
    widest = max(map(width, names), default=0)
    for name, entry in zip(names, summary.next_commands, strict=True):
        first, *rest = command(entry, indent=INDENT + " " * (widest + 2))
        yield INDENT + name.ljust(widest + 2) + first.lstrip()
        yield from rest


def _changed(summary: Summary) -> Iterable[str]:
    """List what changed on failed hosts since their last green run."""
    differences = [host.since_green for host in summary.hosts if host.since_green]
    if not differences:
        return
    for names, entry in grouped(differences):
        message = "" if entry.changes else "; no known change"
        yield from wrap(f"{names}: since run {entry.before}{message}", first=INDENT)
        yield from changes(entry, indent=INDENT * 2, most=MOST_CHANGES)


def _hosts(groups: list[Group]) -> Iterable[str]:
    rows = []
    for group in groups:
        host = group.first
        number_of = f"{len(group.hosts)} hosts, " if len(group.hosts) > 1 else ""
        changed = "changed" if host.changed else "unchanged"
        kind = wording.kind(host)
        words = kind if kind == changed else f"{kind}, {changed}"
        phases = [f"{phase} {status}" for phase in PHASES if (status := _phase_status(group, phase))]
        rows.append(
            ((group.names, f"{number_of}{words}"), tuple(f"{entry}," for entry in phases[:-1]) + tuple(phases[-1:]))
        )
    return table(rows)


def _host_comparison(summary: Summary) -> Iterable[str]:
    return table([((status, check), message) for status, check, message in wording.host_comparison(summary)])


def _phase_status(group: Group, phase: PhaseName) -> str:
    """Return seconds of a successful phase (a range over the group), else its status."""
    results = [host.phases[phase] for host in group.hosts if phase in host.phases]
    if not results:
        return ""
    if results[0].status != "ok":
        return results[0].status
    low, high = min(result.seconds for result in results), max(result.seconds for result in results)
    return duration(high) if duration(low) == duration(high) else f"{duration(low)} to {duration(high)}"


def _each(summary: Summary, groups: list[Group], body: Callable[[Group], Iterable[str]]) -> Iterable[str]:
    """Yield a section's body for every group, with host names where there are several groups; equal bodies once."""
    for names, lines in merged_sections([host.name for host in summary.hosts], groups, body):
        if len(groups) > 1:
            yield from wrap(f"{names}:", first=INDENT)
        yield from lines


def _notes(groups: list[Group]) -> Iterable[str]:
    for group in groups:
        for remark in group.first.notes:
            yield from wrap(f"{group.names}: {remark}" if len(groups) > 1 else remark, first=INDENT)


def _warnings(summary: Summary, groups: list[Group]) -> Iterable[str]:
    for message in wording.warnings(summary, groups):
        yield from wrap(message, first=INDENT)


def _endpoints(summary: Summary, groups: list[Group]) -> Iterable[str]:
    """List every endpoint, with commands that send a prompt to the first host of each group."""
    for group in groups:
        for endpoint, hosts in group_endpoints(group.hosts):
            names = [host.name for host in hosts]
            message = f"{named(names, group.run)}: " if len(summary.hosts) > 1 else ""
            yield from wrap(f"{message}{named_endpoint(endpoint, hosts)}", first=INDENT)
        first = group.first
        if first.endpoint and first.key_file:
            yield from wrap(f"API key in {first.key_file} on the host", first=INDENT)
        for entry in first.call if not first.gateway else ():
            yield from command(entry, indent=INDENT * 2)


def _gateways(summary: Summary) -> Iterable[str]:
    """List each gateway, with what its clients have to know."""
    for host in summary.hosts:
        gateway = host.gateway
        if gateway is None:
            continue
        address, *facts = wording.gateway_facts(gateway)
        yield from wrap(f"{host.name}: {address}", first=INDENT)
        for fact in (*(f"{model}: {fold_names(names)}" for model, names in gateway.models.items()), *facts):
            yield from wrap(fact, first=INDENT * 2)
        for entry in host.call:
            yield from command(entry, indent=INDENT * 2)


def _monitors(summary: Summary) -> Iterable[str]:
    """List each monitoring host, with what it reads and what it cannot read."""
    for host in summary.hosts:
        monitoring = host.monitoring
        if monitoring is None:
            continue
        yield from wrap(
            f"{host.name}: Prometheus at {monitoring.prometheus}, Alertmanager at {monitoring.alertmanager} on the host",
            first=INDENT,
        )
        for kind, names in monitoring.targets.items():
            if names:
                yield from wrap(f"{kind}: {', '.join(names)}", first=INDENT * 2)
        for name, why in monitoring.missing.items():
            yield from wrap(f"missing: {name}: {why}", first=INDENT * 2)


def _attention(group: Group) -> Iterable[str]:
    facts = wording.attention_facts(group.first)
    if facts:
        yield from wrap(facts, first=INDENT)
        for line in group.first.attention.evidence[:MOST_EVIDENCE]:
            yield from wrap(line, first=INDENT * 2)
    for line in wording.proof(group.first):
        yield from wrap(line, first=INDENT)


def _checks(summary: Summary, group: Group) -> Iterable[str]:
    """List one line a family, then each check that did not pass; all figures are in summary.md."""
    checks = group.checks
    if not checks:
        return
    totals: dict[str, int] = {}
    for check in checks:
        totals[check.status] = totals.get(check.status, 0) + check.count
    message = ", ".join(f"{total} {status}" for status, total in totals.items())
    age = wording.verified_when(summary, group.first)
    yield from wrap(f"{message}; {age}" if age else message, first=INDENT)
    yield from table(
        [((family, ended), shown) for family, ended, shown in families(_records(group))], indent=INDENT * 2
    )
    yield from table([_check_row(check) for check in checks if check.status not in ("ok", "skip")], indent=INDENT * 2)
    yield from table(_skipped(checks), indent=INDENT * 2)


def _records(group: Group) -> Iterable[CheckRecord]:
    return (check for host in group.hosts for check in host.checks)


def _check_row(check: GroupedCheck) -> tuple[tuple[str, str], str]:
    shown = "; ".join(filter(None, (check.reason, *check.figures)))
    times = f", {check.count} times" if check.count > 1 else ""
    return (check.status, check.id), f"{check.where}: {shown}{times}" if check.where else f"{shown}{times}"


def _skipped(checks: Iterable[GroupedCheck]) -> list[tuple[tuple[str, str], str]]:
    """Combine skipped checks of a family with the same reason, and all checks that do not apply to this kind of host."""
    skipped = [check for check in checks if check.status == "skip"]
    absent, lacking = inapplicable(check.reason for check in skipped)
    alike: dict[tuple[str, str], list[str]] = {}
    for check in skipped:
        family, _, name = check.id.partition(".")
        if check.reason in absent or check.reason.startswith(NEEDS):
            alike.setdefault(("", lacking if check.reason in absent else check.reason), []).append(check.id)
        else:
            alike.setdefault((family, check.reason), []).append(name)
    return [
        (("skip", family), f"{reason} ({', '.join(names)})")
        if family
        else (("skip", count(len(names), "check")), reason)
        for (family, reason), names in alike.items()
    ]


def _devices(group: Group) -> Iterable[str]:
    for line in wording.device_facts(group.hosts):
        yield from wrap(line, first=INDENT, rest=INDENT * 2)


def _stack(group: Group) -> Iterable[str]:
    host: HostSummary = group.first
    yield from table(((part,), build) for part, build in wording.stack_facts(host))
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
    phases = [f"{phase} {duration(seconds)}" for phase, seconds in summary.phase_seconds.items()]
    if phases:
        yield from wrap(", ".join(phases) + f"; in all {duration(summary.seconds)}", first=INDENT)
    if started := slowest_start(summary):
        yield from wrap(started, first=INDENT)
    if sent := describe_transfers(summary.transfers):
        yield from wrap(sent, first=INDENT)


def describe_transfers(found: Transfers | None) -> str | None:
    """Return the bytes that hosts were sent or got, by source, and why."""
    if found is None or not found.controller + found.peers + found.host + found.path:
        return None
    text = f"sent: {format_bytes(found.controller)} by the controller"
    if found.from_peers:
        text += f", {format_bytes(found.peers)} from host to host (to {fold_names(found.from_peers)})"
    if found.host:
        text += f", {format_bytes(found.host)} fetched by hosts from their index or hub"
    if found.path:
        text += f", {format_bytes(found.path)} copied by hosts from a folder"
    if found.refused:
        text += f"; no host could serve {fold_names(found.refused)}, so the controller sent them the rest"
    if found.short:
        text += f"; {fold_names(found.short)} did not get all from their local source, so the controller sent the rest"
    return f"{text}; {found.reason}" if found.reason else text

"""Summary as plain text of at most 100 columns: the first screen, a rule, then details."""

from collections.abc import Callable, Iterable

from provision.core.formatting import format_bytes
from provision.core.grouping import gather
from provision.core.models.records import PHASES, HostSummary, PhaseName, Summary, Transfers
from provision.report import wording
from provision.report.difference.text import changes, grouped
from provision.report.group import (
    Group,
    GroupedCheck,
    families,
    group_endpoints,
    group_hosts,
    merged_sections,
    named,
    named_endpoint,
)
from provision.report.layout import count, duration, fold_names, table, wrap
from provision.report.next_steps import command_lines, purposes_and_commands
from provision.report.screen import INDENT, RULE, first_screen
from provision.report.starts import slowest_start
from verify.records import NEEDS, inapplicable

MOST_REFUSALS = 6
MOST_EVIDENCE = 4
MOST_CHANGES = 8


def render(summary: Summary) -> str:
    """Return the whole text, ending in a newline."""
    groups = group_hosts(summary.hosts)
    screen = first_screen(summary, groups)
    named_groups = [(f"{group.names}: " if len(groups) > 1 else "", group) for group in groups]
    lines = [*screen.lines, "", RULE, "Details"]
    commands = [
        line for first, *rest in purposes_and_commands(summary.next_commands, 2) for line in (INDENT + first, *rest)
    ]
    for title, section in (
        ("What failed", screen.failed if "What failed" in screen.cut else ()),
        ("Warnings", _wrapped(wording.warnings(summary, groups)) if "Warnings" in screen.cut else ()),
        ("Next", commands if "Next" in screen.cut else ()),
        ("Changed since green", _changed(summary)),
        ("Hosts", _hosts(groups)),
        ("Host comparison", table(((status, check), told) for status, check, told in wording.host_comparison(summary))),
        ("Gateway", _gateways(summary)),
        ("Endpoint", _endpoints(summary, groups)),
        ("Monitoring", _monitors(summary)),
        ("Attention", _each(summary, groups, _attention) if "Attention" in screen.cut else ()),
        ("Checks", _each(summary, groups, lambda group: _checks(summary, group))),
        ("Devices", _each(summary, groups, _devices)),
        ("Versions", _each(summary, groups, _stack)),
        ("Notes", _wrapped(f"{names}{note}" for names, group in named_groups for note in group.first.notes)),
        ("Seconds", _seconds(summary)),
    ):
        body = list(section)
        if body:
            lines += ["", *wrap(title), *body]
    return "\n".join(lines) + "\n"


def _wrapped(lines: Iterable[str], indent: str = INDENT) -> Iterable[str]:
    return (row for line in lines for row in wrap(line, first=indent))


def _changed(summary: Summary) -> Iterable[str]:
    """List what changed on failed hosts since their last green run."""
    for names, entry in grouped(host.since_green for host in summary.hosts if host.since_green):
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
            yield from command_lines(entry, indent=INDENT * 2)


def _gateways(summary: Summary) -> Iterable[str]:
    """List each gateway, with what its clients have to know."""
    for host in summary.hosts:
        gateway = host.gateway
        if gateway is None:
            continue
        address, *facts = wording.gateway_facts(gateway)
        yield from wrap(f"{host.name}: {address}", first=INDENT)
        models = (f"{model}: {fold_names(names)}" for model, names in gateway.models.items())
        yield from _wrapped((*models, *facts), INDENT * 2)
        for entry in host.call:
            yield from command_lines(entry, indent=INDENT * 2)


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
        read = (f"{kind}: {', '.join(names)}" for kind, names in monitoring.targets.items() if names)
        missing = (f"missing: {name}: {why}" for name, why in monitoring.missing.items())
        yield from _wrapped((*read, *missing), INDENT * 2)


def _attention(group: Group) -> Iterable[str]:
    if facts := wording.attention_facts(group.first):
        yield from wrap(facts, first=INDENT)
        yield from _wrapped(group.first.attention.evidence[:MOST_EVIDENCE], INDENT * 2)
    yield from _wrapped(wording.proof(group.first))


def _checks(summary: Summary, group: Group) -> Iterable[str]:
    """List one line a family, then each check that did not pass; all figures are in summary.json."""
    checks = group.checks
    if not checks:
        return
    totals = gather((check.status, check.count) for check in checks)
    message = ", ".join(f"{sum(counts)} {status}" for status, counts in totals.items())
    age = wording.verified_when(summary, group.first)
    yield from wrap(f"{message}; {age}" if age else message, first=INDENT)
    counts = families(check for host in group.hosts for check in host.checks)
    yield from table((((family, ended), shown) for family, ended, shown in counts), indent=INDENT * 2)
    rows = []
    for check in (check for check in checks if check.status not in ("ok", "skip")):
        where, times = f"{check.where}: " if check.where else "", f", {check.count} times" if check.count > 1 else ""
        shown = "; ".join(filter(None, (check.reason, *check.figures)))
        rows.append(((check.status, check.id), f"{where}{shown}{times}"))
    yield from table(rows, indent=INDENT * 2)
    yield from table(_skipped(checks), indent=INDENT * 2)


def _skipped(checks: Iterable[GroupedCheck]) -> list[tuple[tuple[str, str], str]]:
    """Combine skipped checks with the same reason, and all that do not apply to this kind of host."""
    skipped = [check for check in checks if check.status == "skip"]
    absent, lacking = inapplicable(check.reason for check in skipped)
    alike = gather((lacking if check.reason in absent else check.reason, check.id) for check in skipped)
    return [
        (
            ("skip", count(len(ids), "check")),
            reason if reason == lacking or reason.startswith(NEEDS) else f"{reason} ({', '.join(ids)})",
        )
        for reason, ids in alike.items()
    ]


def _devices(group: Group) -> Iterable[str]:
    for line in wording.device_facts(group.hosts):
        yield from wrap(line, first=INDENT, rest=INDENT * 2)


def _stack(group: Group) -> Iterable[str]:
    host: HostSummary = group.first
    yield from table(((part,), build) for part, build in wording.stack_facts(host))
    chosen = [reason for reason in host.reasons if reason.verdict != "reject"]
    refused = gather((reason.text, reason.candidate) for reason in host.reasons if reason.verdict == "reject")
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
            yield f"{INDENT * 2}and more, all of them: `plan` with `--explain`"


def _seconds(summary: Summary) -> Iterable[str]:
    phases = [f"{phase} {duration(seconds)}" for phase, seconds in summary.phase_seconds.items()]
    lines = [", ".join(phases) + f"; in all {duration(summary.seconds)}"] if phases else []
    return _wrapped([*lines, *filter(None, (slowest_start(summary), describe_transfers(summary.transfers)))])


def describe_transfers(found: Transfers | None) -> str | None:
    """Return the bytes that hosts were sent or got, by source, and why."""
    if found is None or not found.controller + found.peers + found.host + found.path:
        return None
    parts = {
        f", {format_bytes(found.peers)} from host to host (to {fold_names(found.from_peers)})": found.from_peers,
        f", {format_bytes(found.host)} fetched by hosts from their index or hub": found.host,
        f", {format_bytes(found.path)} copied by hosts from a folder": found.path,
        f"; no host could serve {fold_names(found.refused)}, so the controller sent them the rest": found.refused,
        f"; {fold_names(found.short)} did not get all from their local source, so the controller sent the rest": found.short,
        f"; {found.reason}": found.reason,
    }
    return f"sent: {format_bytes(found.controller)} by the controller" + "".join(
        text for text, is_so in parts.items() if is_so
    )

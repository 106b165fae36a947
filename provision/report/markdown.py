"""Summary as Markdown for an issue or a wiki page: the first screen, a rule, then details."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from provision.core.models.records import Summary
from provision.report import wording
from provision.report.difference.text import grouped, sentence
from provision.report.group import Group, group_endpoints, group_hosts, merged_sections, named, named_endpoint
from provision.report.layout import clean, count, duration
from provision.report.next_steps import purpose
from provision.report.wording import slowest_start
from verify.records import inapplicable

MOST_EVIDENCE = 4


def render(summary: Summary) -> str:
    """Return the whole document, ending in a newline."""
    groups = group_hosts(summary.hosts)
    parts = [f"# {_plain(wording.headline(summary))}", _plain(wording.facts_of_run(summary))]
    parts += _sections(
        ("What failed", _failures(groups)),
        ("Warnings", _list(wording.warnings(summary, groups))),
        ("Hosts", _table(("Hosts", "State", "Changed", "Seconds"), map(_host_row, groups))),
        ("Gateway", _gateways(summary)),
        ("Endpoint", _endpoints(groups)),
        ("Attention", _each(summary, groups, _attention)),
        ("Next", _code(f"{entry}  # {purpose(entry)}" for entry in summary.next_commands)),
    )
    parts += ["---"]
    phases = (f"{phase} {duration(seconds)}" for phase, seconds in summary.phase_seconds.items())
    compared = list(wording.host_comparison(summary))
    parts += _sections(
        ("Changed since green", _changed(summary)),
        ("Host comparison", _table(("Status", "Check", "Result"), compared) if compared else ""),
        ("Checks", _each(summary, groups, lambda group: _checks(summary, group))),
        ("Devices", _each(summary, groups, lambda group: [_list(wording.device_facts(group.hosts))])),
        ("Versions", _each(summary, groups, _stack)),
        ("Notes", _list(f"{group.names}: {note}" for group in groups for note in group.first.notes)),
        ("Seconds", _list([*phases, *filter(None, [slowest_start(summary)])])),
    )
    return "\n\n".join(parts) + "\n"


def _sections(*sections: tuple[str, str]) -> list[str]:
    return [part for title, body in sections if body for part in (f"## {title}", body)]


def _failures(groups: list[Group]) -> str:
    lines = []
    for group in wording.wrong_groups(groups):
        lines.append(f"- **{_plain(group.names)}**")
        for finding in group.first.findings[:1]:
            lines.append(f"  - cause: {_plain(finding.cause)} ({finding.confidence:.0%} sure)")
            lines += [f"  - fix: {_plain(fix)}" for fix in finding.fix[:1]]
        for message, hint, evidence in wording.failures(group):
            lines.append(f"  - {_plain(message)}")
            lines += [f"    - `{_tick(line)}`" for line in evidence[:MOST_EVIDENCE] if clean(line)]
            lines += [f"  - hint: {_plain(hint)}"] if hint else []
    return "\n".join(lines)


def _changed(summary: Summary) -> str:
    """List what changed on failed hosts since their last green run."""
    parts = []
    for names, entry in grouped(host.since_green for host in summary.hosts if host.since_green):
        lines = [f"{change.part}: {sentence(change)}" for change in entry.changes]
        lines += [f"unknown: {unknown}" for unknown in entry.unknown]
        parts += [_plain(f"{names}, since run {entry.before}"), _list(lines) or "No known change."]
    return "\n\n".join(parts)


def _host_row(group: Group) -> tuple[str, str, str, str]:
    first = group.first
    shown = ", ".join(f"{phase} {duration(result.seconds)}" for phase, result in first.phases.items())
    return group.names, wording.kind(first), "yes" if first.changed else "no", shown


def _each(summary: Summary, groups: Sequence[Group], body: Callable[[Group], Iterable[str]]) -> str:
    """Return the blocks of every group, with host names where there are several groups; equal blocks once."""
    parts: list[str] = []
    for names, blocks in merged_sections(
        [host.name for host in summary.hosts], groups, lambda group: filter(None, body(group))
    ):
        parts += [f"**{_plain(names)}**"] if len(groups) > 1 else []
        parts += blocks
    return "\n\n".join(parts)


def _endpoints(groups: Sequence[Group]) -> str:
    """List every endpoint once, with commands that send a prompt to the first host of each group."""
    parts = []
    for group in groups:
        parts.append(
            _list(
                f"{named([host.name for host in hosts], group.run)}: {named_endpoint(endpoint, hosts)}"
                for endpoint, hosts in group_endpoints(group.hosts)
            )
        )
        if group.first.key_file and group.first.endpoint:
            parts.append(_list([f"API key in {group.first.key_file} on the host"]))
        parts.append(_code(group.first.call) if not group.first.gateway else "")
    return "\n\n".join(filter(None, parts))


def _gateways(summary: Summary) -> str:
    gateways = [(host, host.gateway) for host in summary.hosts if host.gateway]
    return "\n\n".join(f"{_list(wording.gateway_facts(gateway))}\n\n{_code(host.call)}" for host, gateway in gateways)


def _attention(group: Group) -> Iterator[str]:
    if facts := wording.attention_facts(group.first):
        yield _plain(facts)
    yield _list((*group.first.attention.evidence, *wording.proof(group.first)))


def _checks(summary: Summary, group: Group) -> Iterator[str]:
    checks = group.checks
    absent, lacking = inapplicable(check.reason for check in checks if check.status == "skip")
    rows = [
        (check.status, check.id, check.where, "; ".join(filter(None, (check.reason, *check.figures))))
        for check in checks
        if check.status != "skip" or check.reason not in absent
    ]
    if left := len(checks) - len(rows):
        rows.append(("skip", count(left, "check"), "", lacking))
    if rows:
        yield _plain(wording.verified_when(summary, group.first))
        yield _table(("Status", "Check", "Device", "Result"), rows)


def _stack(group: Group) -> Iterator[str]:
    stack = list(wording.stack_facts(group.first))
    yield _table(("Part", "Build"), stack) if stack else ""
    reasons = group.first.reasons
    yield "\n".join(f"- {reason.verdict} `{_tick(reason.candidate)}`: {_plain(reason.text)}" for reason in reasons)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in row) + " |" for row in lines)


def _code(lines: Iterable[str]) -> str:
    body = "\n".join(clean(line) for line in lines)
    return f"```sh\n{body}\n```" if body else ""


def _plain(text: str) -> str:
    """Escape text for Markdown."""
    escaped = clean(text).replace("\\", "\\\\")
    for char in "|*_<`":
        escaped = escaped.replace(char, f"\\{char}")
    return escaped


def _tick(text: str) -> str:
    return clean(text).replace("`", "'").replace("|", "/")

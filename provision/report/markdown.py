"""The summary as Markdown, for an issue or a wiki page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from provision.models.records import ROOMS, Summary
from provision.report import phrases
from provision.report.advice import purpose
from provision.report.difference.text import folded, sentence
from provision.report.fold import Group, fold, fold_checks
from provision.report.layout import clean, duration


def render(summary: Summary) -> str:
    """The whole document, ending in a newline."""
    groups = fold(summary.hosts)
    parts = [f"# {_plain(phrases.headline(summary))}", _plain(phrases.facts_of_run(summary))]
    parts += _failures(summary)
    commands = [f"{entry}  # {purpose(entry)}" for entry in summary.next_commands]
    parts += _section("Next", _code(commands))
    parts += _changed(summary)
    parts += _section("Hosts", _table(("Hosts", "State", "Changed", "Seconds"), map(_host_row, groups)))
    for title, attribute in (("Deviations from the plan", "deviations"), ("Warnings", "warnings")):
        said = [
            f"- {_plain(group.names)}: {_plain(text)}" for group in groups for text in getattr(group.first, attribute)
        ]
        parts += _section(title, "\n".join(said))
    for group in groups:
        parts += _group(summary, group)
    return "\n\n".join(parts) + "\n"


def _failures(summary: Summary) -> list[str]:
    lines = []
    for group in phrases.wrong_groups(summary):
        lines.append(f"- **{_plain(group.names)}**")
        for finding in group.first.findings[:1]:
            lines.append(f"  - cause: {_plain(finding.cause)} ({finding.confidence:.0%} sure)")
            lines += [f"  - fix: {_plain(fix)}" for fix in finding.fix[:1]]
        for said, hint, _ in phrases.failures(group):
            lines.append(f"  - {_plain(said)}")
            lines += [f"  - hint: {_plain(hint)}"] if hint else []
    return _section("What failed", "\n".join(lines))


def _changed(summary: Summary) -> list[str]:
    """Of hosts that failed: what is otherwise than in the run in which they were green last."""
    parts = []
    for names, entry in folded(host.since_green for host in summary.hosts if host.since_green):
        lines = [*(f"{change.part}: {sentence(change)}" for change in entry.changes), *entry.unknown]
        said = "\n".join(f"- {_plain(line)}" for line in lines) or "Nothing that is known changed."
        parts += [_plain(f"{names}, since run {entry.before}"), said]
    return _section("Changed since green", "\n\n".join(parts))


def _host_row(group: Group) -> tuple[str, str, str, str]:
    first = group.first
    seconds = {result.room: result.seconds for result in first.rooms}
    told = ", ".join(f"{room} {duration(seconds[room])}" for room in ROOMS if room in seconds)
    return group.names, first.state, "yes" if first.changed else "no", told


def _group(summary: Summary, group: Group) -> list[str]:
    """Devices, Stack, checks, attention and endpoint of hosts that are alike."""
    host = group.first
    parts = [f"## {_plain(group.names)}"]
    parts += ["\n".join(f"- {_plain(device)}" for device in host.devices)] if host.devices else []
    stack = list(phrases.stack_facts(host))
    parts += [_table(("Part", "Build"), stack)] if stack else []
    reasons = [f"- {reason.verdict} `{_tick(reason.candidate)}`: {_plain(reason.text)}" for reason in host.reasons]
    parts += ["\n".join(reasons)] if reasons else []
    checks = [
        (check.status, check.id, check.where, "; ".join(filter(None, (check.reason, *check.figures))))
        for check in fold_checks(group.hosts)
    ]
    if checks:
        age = phrases.verified_when(summary, host)
        parts += [_plain(age)] if age else []
        parts.append(_table(("Status", "Check", "Device", "Result"), checks))
    attention = phrases.attention_facts(host)
    parts += [f"Attention: {_plain(attention)}"] if attention else []
    parts += ["\n".join(f"- {_plain(line)}" for line in host.attention.evidence)] if host.attention.evidence else []
    endpoints = [f"- {_plain(member.name)}: {_plain(member.endpoint)}" for member in group.hosts if member.endpoint]
    parts += ["\n".join(endpoints)] if endpoints else []
    parts += [_code(host.call)] if host.call else []
    return parts


def _section(title: str, body: str) -> list[str]:
    return [f"## {title}", body] if body else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in row) + " |" for row in lines)


def _code(lines: Iterable[str]) -> str:
    body = "\n".join(clean(line) for line in lines)
    return f"```sh\n{body}\n```" if body else ""


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands."""
    escaped = clean(text).replace("\\", "\\\\")
    for char in "|*_<`":
        escaped = escaped.replace(char, f"\\{char}")
    return escaped


def _tick(text: str) -> str:
    return clean(text).replace("`", "'").replace("|", "/")

"""Summary as Markdown for an issue or a wiki page (summary.md.j2): the first screen, a rule, then details."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from provision.core.models.records import Summary
from provision.core.templates import text_templates
from provision.report import wording
from provision.report.difference.text import grouped, sentence
from provision.report.group import Group, group_endpoints, group_hosts, merged_sections, named, named_endpoint
from provision.report.layout import clean, count, duration
from provision.report.next_steps import purpose
from verify.records import inapplicable


def render(summary: Summary) -> str:
    """Return the whole document, ending in a newline."""
    groups = group_hosts(summary.hosts)
    run = [host.name for host in summary.hosts]

    def merged(body: Callable[[Group], str]) -> Iterator[tuple[str, str]]:
        """Yield the text of each group with its hosts; equal texts once."""
        for names, texts in merged_sections(run, groups, lambda group: filter(None, [body(group).strip("\n")])):
            yield names, texts[0]

    templates = text_templates(Path(__file__).parent)
    templates.filters |= {"plain": _plain, "quoted": _quoted, "sentence": sentence}
    text = templates.get_template("summary.md.j2").render(
        summary=summary,
        groups=groups,
        wording=wording,
        merged=merged,
        table=_table,
        code=_code,
        check_rows=_check_rows,
        endpoints=lambda hosts: [
            (f"{named([host.name for host in those], run)}: {named_endpoint(endpoint, those)}")
            for endpoint, those in group_endpoints(hosts)
        ],
        host_rows=map(_host_row, groups),
        next_commands=[f"{entry}  # {purpose(entry)}" for entry in summary.next_commands],
        changed=grouped(host.since_green for host in summary.hosts if host.since_green),
        compared=list(wording.host_comparison(summary)),
        seconds=[
            *(f"{phase} {duration(seconds)}" for phase, seconds in summary.phase_seconds.items()),
            *filter(None, [wording.slowest_start(summary)]),
        ],
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


def _host_row(group: Group) -> tuple[str, str, str, str]:
    first = group.first
    shown = ", ".join(f"{phase} {duration(result.seconds)}" for phase, result in first.phases.items())
    return group.names, wording.kind(first), "yes" if first.changed else "no", shown


def _check_rows(group: Group) -> list[tuple[str, str, str, str]]:
    """Return a row for each check; those that do not apply to this kind of host are one."""
    checks = group.checks
    absent, lacking = inapplicable(check.reason for check in checks if check.status == "skip")
    rows = [
        (check.status, check.id, check.where, "; ".join(filter(None, (check.reason, *check.figures))))
        for check in checks
        if check.status != "skip" or check.reason not in absent
    ]
    if left := len(checks) - len(rows):
        rows.append(("skip", count(left, "check"), "", lacking))
    return rows


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


def _quoted(text: str) -> str:
    """Return text for code within a line."""
    return clean(text).replace("`", "'").replace("|", "/")

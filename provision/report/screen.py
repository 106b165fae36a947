"""The first screen of a run: in at most 25 lines how it ended, what failed and why, what serves, and what to do now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from provision.core.models.records import HostSummary, Summary
from provision.report import wording
from provision.report.failures import INDENT, failure_lines, failures, short_names, within
from provision.report.group import Group, group_hosts, merged_sections
from provision.report.layout import COLUMNS, clean, count, fitted, shortened, width, wrap
from provision.report.next_steps import purpose
from provision.report.shell import command
from provision.report.summary_builder import describe_build

LINES = 25
"""With the line that says where the details are."""
RULE = "-" * COLUMNS
"""In a summary's text between the first screen and the details; no line before it is one."""
LABEL = 11
"""Columns before each line of the lower block; the label stands on its first one."""
MOST_NAMES = 34


@dataclass(frozen=True)
class Most:
    """How many lines each part of the lower block may take."""

    warnings: int
    changed: int
    hosts: int
    stack: int
    endpoint: int
    attention: int
    next: int


BLOCKS = (
    Most(warnings=12, changed=3, hosts=6, stack=3, endpoint=4, attention=6, next=6),
    Most(warnings=4, changed=1, hosts=4, stack=2, endpoint=3, attention=4, next=4),
    Most(warnings=1, changed=1, hosts=3, stack=0, endpoint=1, attention=1, next=6),
)
"""From the most to the least: the first is taken above which what failed stands whole, else the last. Without a failure the second one fits always."""


@dataclass
class Screen:
    """The lines, and the titles of the details' parts that it does not show whole."""

    failed: list[str] = field(default_factory=list)
    """All lines of what failed, of which the screen may show fewer."""
    lines: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)


def first_screen(summary: Summary) -> Screen:
    """What a person reads first, without the line that says where the details are."""
    found, run, groups = failures(summary), [host.name for host in summary.hosts], group_hosts(summary.hosts)
    screen = Screen(failure_lines(found, run))
    left = LINES - (6 if found else 4)
    for most in BLOCKS:
        screen.cut.clear()
        block = _block(summary, groups, most, screen)
        if len(block) + len(screen.failed) <= left:
            break
    screen.lines += shortened(wording.headline(summary), 1)
    screen.lines += shortened(wording.facts_of_run(summary), 1, first=INDENT)
    if found:
        told = within(found, run, left - len(block))
        screen.lines += ["", "What failed", *told]
        screen.cut |= {"What failed"} if told != screen.failed else set()
    if block:
        screen.lines += ["", *block]
    return screen


def first_screen_of(text: str, run: str | None = None) -> str:
    """The first screen of a summary's text, then how to see the rest; a text without details as a whole.

    `run` names another run than the newest.
    """
    head, rule, _ = text.partition(f"\n{RULE}\n")
    if not rule:
        return text
    words = f"show {run}" if run else "show"
    return f"{head.rstrip()}\n{'Details':<{LABEL}}./firstlight logs {words} --full\n"


def _block(summary: Summary, groups: Sequence[Group], most: Most, screen: Screen) -> list[str]:
    """What stands below what failed: labelled lines from the warnings to the next command."""
    columns = COLUMNS - LABEL
    warnings = [*wording.warnings(summary, groups)]
    told = fitted(warnings, most.warnings, columns=columns)
    if told != [line for item in warnings for line in wrap(item, columns=columns)]:
        screen.cut.add("Warnings")
    changed = fitted([*_changed(summary)], most.changed, columns=columns) if most.changed else []
    stacks = fitted(_stacks(summary), most.stack, columns=columns) if most.stack else []
    return [
        *_labelled("Warnings", told),
        *_labelled("Changed", changed),
        *_labelled("Hosts", _hosts(summary, groups, most.hosts)),
        *_labelled("Stack" if any(host.stack for host in summary.hosts) else "Devices", stacks),
        *_labelled("Endpoint", _endpoints(summary, most.endpoint)),
        *_labelled(
            "Attention", fitted(_attention(summary, groups, most.attention, screen), most.attention, columns=columns)
        ),
        *_next(summary, most.next, screen),
    ]


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"{'' if number else label:<{LABEL}}{line}".rstrip() for number, line in enumerate(lines)]


def _changed(summary: Summary) -> Iterator[str]:
    """Of hosts that failed: what is otherwise than in the run in which they were green last."""
    differences = [host.since_green for host in summary.hosts if host.since_green and host.since_green.changes]
    if not differences:
        return
    from provision.report.difference.text import grouped, sentence  # noqa: PLC0415 - only a run that failed pays for it

    for _, entry in grouped(differences):
        told = [f"{change.part}: {sentence(change)}" for change in entry.changes if change.part != "state"]
        if told:
            yield f"since run {entry.before}: {told[0]}"
            yield from told[1:]


def _hosts(summary: Summary, groups: Sequence[Group], most: int) -> Iterator[str]:
    """Hosts that came out alike in one line, those that did not end well first, then those that warned."""
    alike: dict[tuple[int, int, str], list[str]] = {}
    states = list(wording.STATE_WORDS)
    for group in groups:
        warned = _warned(group.first)
        words = _words(group.first) + (", with warnings" if warned and len(groups) > 1 else "")
        place = (states.index(group.first.state), 0 if warned else 1, words)
        alike.setdefault(place, []).extend(host.name for host in group.hosts)
    rows = sorted(alike.items(), key=lambda item: item[0])
    shown = rows if len(rows) <= most else rows[: most - 1]
    run = [host.name for host in summary.hosts]
    told = [(names, f"{len(names)} hosts, {words}" if len(names) > 1 else words) for (_, _, words), names in shown]
    left = COLUMNS - LABEL - 2 - max((width(words) for _, words in told), default=0)
    names_of = [short_names(names, run, min(MOST_NAMES, left)) for names, _ in told]
    widest = max(map(width, names_of), default=0)
    for named, (_, words) in zip(names_of, told, strict=True):
        yield f"{named}{' ' * (widest - width(named))}  {words}"
    numbers = Counter(states[place] for (place, _, _), members in rows[len(shown) :] for _ in members)
    if numbers:
        yield f"and {', '.join(f'{number} {state}' for state, number in numbers.items())}"


def _words(host: HostSummary) -> str:
    """How a host came out, in which phase it did not end well, and whether it was changed."""
    changed = "changed" if host.changed else "unchanged"
    phase = next((name for name, result in host.phases.items() if result.status in ("failed", "interrupted")), None)
    state = f"{host.state} in {phase}" if phase else host.state
    return state if state == changed else f"{state}, {changed}"


def _warned(host: HostSummary) -> bool:
    return bool(host.deviations or host.warnings or any(check.status == "warn" for check in host.checks))


def _stacks(summary: Summary) -> list[str]:
    """What was chosen for which devices, the most frequent first."""
    kinds: dict[str, int] = {}
    for host in summary.hosts:
        parts = (describe_build(host.stack) if host.stack else "", *host.devices[:1])
        if told := " on ".join(filter(None, parts)):
            kinds[told] = kinds.get(told, 0) + 1
    if len(kinds) == 1:
        return list(kinds)
    return [f"{count(kinds[told], 'host')}: {told}" for told in sorted(kinds, key=lambda kind: -kinds[kind])]


def _endpoints(summary: Summary, most: int) -> list[str]:
    """Each address with its hosts, where the first one's key lies, and the tunnel to it where it needs one."""
    hosts_of: dict[str, list[HostSummary]] = {}
    for host in summary.hosts:
        if host.endpoint:
            hosts_of.setdefault(host.endpoint, []).append(host)
    run, items = [host.name for host in summary.hosts], []
    for endpoint, hosts in hosts_of.items():
        where = f" on {short_names([host.name for host in hosts], run, MOST_NAMES)}" if len(run) > 1 else ""
        items.append(f"{endpoint}{where}")
    if most == 1 or not items:
        return fitted(items, most, columns=COLUMNS - LABEL)
    first = next(iter(hosts_of.values()))[0]
    rest = [f"API key in {clean(first.key_file)} on the host" if first.key_file else ""]
    rest.append(f"tunnel: {clean(first.call[0])}" if len(first.call) > 1 else "")
    rest = [line for line in rest if line and width(line) <= COLUMNS - LABEL]
    return [*fitted(items, most - len(rest), columns=COLUMNS - LABEL), *rest]


def _attention(summary: Summary, groups: Sequence[Group], most: int, screen: Screen) -> list[str]:
    """What was asked for and what is in use on hosts that ended well, with the proof of it."""
    well = [group for group in groups if not wording.is_bad(group.first.state)]
    evidence = min(most - 1, 1)

    def body(group: Group) -> Iterator[str]:
        yield from filter(None, [wording.attention_facts(group.first)])
        yield from group.first.attention.evidence[:evidence]
        yield from wording.proof(group.first)

    told = [*merged_sections([host.name for host in summary.hosts], well, body)]
    has_more = any(len(group.first.attention.evidence) > evidence for group in well)
    if has_more or len(told) > 1 or len(groups) > len(well):
        screen.cut.add("Attention")
    if len(told) == 1 and most > 1:
        return list(told[0][1])
    return [f"{names}: {'; '.join(lines)}" if len(told) > 1 else "; ".join(lines) for names, lines in told]


def _next(summary: Summary, most: int, screen: Screen) -> list[str]:
    """What to type next, whole commands only: a cut one does not run."""
    names = [purpose(entry) for entry in summary.next_commands]
    widest = max(map(width, names), default=0)
    lines: list[str] = []
    for name, entry in zip(names, summary.next_commands, strict=True):
        # What follows the first line is indented already, or goes on in the first column, as the shell needs it.
        first, *rest = command(entry, indent=" " * (LABEL + widest + 2))
        if len(lines) + 1 + len(rest) > most:
            screen.cut.add("Next")
            break
        lines += [f"{'' if lines else 'Next':<{LABEL}}{name.ljust(widest + 2)}{first.lstrip()}", *rest]
    if names and not lines:
        return _labelled("Next", [f"{names[0]}: the details have the command, which is long"])
    return lines

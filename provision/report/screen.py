"""First screen of a run: at most 25 lines with verdict, failures, endpoint and next command."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from provision.core.grouping import gather
from provision.core.models.records import ENDED_BADLY, Finding, HostSummary, Summary
from provision.core.run_folder import is_query
from provision.report import wording
from provision.report.difference.text import grouped, sentence
from provision.report.group import Group, group_endpoints, merged_sections, named, named_endpoint
from provision.report.layout import COLUMNS, clean, count, fitted, fold_names, shortened, split_at, width, wrap
from provision.report.next_steps import command_lines, purpose, purposes_and_commands, rows
from provision.report.summary_builder import describe_build

INDENT = "  "
HOST_COMPARISON = "host comparison"
MOST_NAMES_OF_FAILURE = 40
"""Maximum columns of host names where cause and hosts share a line."""


DETAILS = (4, 2, 1)
"""Maximum lines of each part of a failure, from most to least detailed. With the first, one cause has at most 15 lines with the host's name."""


@dataclass(frozen=True)
class Failure:
    """One failure and the hosts that share it; without hosts, a failed host comparison."""

    hosts: tuple[str, ...]
    finding: Finding | None
    messages: tuple[tuple[str, str | None, tuple[str, ...]], ...]
    """Sentence, hint and evidence, the most important first."""


def failures(summary: Summary, groups: Iterable[Group]) -> list[Failure]:
    """Return failures in the order of the hosts, then failed host comparisons."""
    found = [
        Failure(
            hosts=tuple(host.name for host in group.hosts),
            finding=next(iter(group.first.findings), None),
            messages=tuple(wording.failures(group)),
        )
        for group in wording.wrong_groups(groups)
    ]
    odd = [check for check in summary.host_comparison if check.status in ("fail", "error")]
    shown = tuple((f"check {check.id}: {check.reason or check.status}", check.remedy, ()) for check in odd)
    return [*found, Failure((), None, shown)] if shown else found


def failure_lines(found: Sequence[Failure], run: Sequence[str], detail: int = DETAILS[0]) -> list[str]:
    """Return a block of lines for each cause: hosts, finding, then the message of the phase or check."""
    lines: list[str] = []
    bodies: dict[tuple[str, ...], list[str]] = {}
    for failure in found:
        bodies.setdefault(tuple(_body(failure, detail)), []).extend(failure.hosts)
    for body, names in bodies.items():
        shown = short_names(names, run, COLUMNS - len(INDENT)) if names else HOST_COMPARISON
        lines += [INDENT + shown, *body]
    return lines


def within(found: Sequence[Failure], run: Sequence[str], most: int, *, rest: str) -> list[str]:
    """Return failures in at most `most` lines: first with less detail, then one line a cause, then a count and the command for the rest."""
    for detail in DETAILS:
        lines = failure_lines(found, run, detail)
        if len(lines) <= most:
            return lines
    alike: dict[str, tuple[str, list[str]]] = {}
    for failure in found:
        cause, fixes = (failure.finding.cause, failure.finding.fix) if failure.finding else (None, ())
        message = next((message for message, _, _ in failure.messages), None)
        hint = next((hint for _, hint, _ in failure.messages if hint), None)
        remedy = f"fix: {fixes[0]}" if fixes else f"hint: {hint}" if hint else ""
        said = ": ".join(filter(None, (cause, message))) or "failed"
        alike.setdefault(said, (remedy, []))[1].extend(failure.hosts)
    columns = COLUMNS - len(INDENT)
    items, lines = [], []
    for said, (remedy, names) in alike.items():
        items.append(f"{short_names(names, run, MOST_NAMES_OF_FAILURE) if names else HOST_COMPARISON}: {said}")
        lines += [*shortened(items[-1], 1, columns=columns), *shortened(remedy, 1, first=INDENT, columns=columns)]
    if len(lines) > most:
        lines = fitted(items, most, columns=columns, rest=f": {rest}")
    return [INDENT + line for line in lines if line]


def short_names(names: Sequence[str], run: Sequence[str], columns: int) -> str:
    """Return host names in at most `columns` columns: all, or as many as fit and the number of all."""
    chosen = set(names)
    ordered = [name for name in run if name in chosen]
    shown = clean(named(ordered, run))
    if width(shown) <= columns:
        return shown
    more = f"... ({count(len(ordered), 'host')})"
    head = split_at(shown, columns - width(more))[0]
    return (head.rpartition(", ")[0] or head) + more


def _body(failure: Failure, most: int) -> Iterable[str]:
    finding, first = failure.finding, INDENT * 2
    if finding:
        yield from shortened(f"cause: {finding.cause} ({finding.confidence:.0%} sure)", 1, first=first)
        for fix in finding.fix[:1]:
            yield from shortened(f"fix: {fix}", min(most, 2), first=first)
    for message, hint, evidence in failure.messages[:most]:
        yield from shortened(message, most, first=first)
        # The last lines of an output are those that say why.
        for line in evidence[-most:] if most > 1 else ():
            yield from shortened(line, 1, first=f"{first}| ")
        if hint:
            yield from shortened(f"hint: {hint}", min(most, 3), first=first)
    if len(failure.messages) > most:
        yield f"{first}and {len(failure.messages) - most} more: {wording.details()}"


LINES = 25
"""Including the line that names the command for the details."""
RULE = "-" * COLUMNS
"""Separates the first screen from the details in a summary's text."""
_RULE = re.compile(r"^-{60,100}\n", re.MULTILINE)
"""A rule as any terminal had it; no other line of a summary is one."""
LABEL = 11
"""Columns of the label before each line of the lower block."""
MOST_NAMES = 34


@dataclass(frozen=True)
class Most:
    """Maximum lines of each part of the lower block."""

    warnings: int
    changed: int
    hosts: int
    stack: int
    endpoint: int
    ask: int
    attention: int
    next: int


BLOCKS = (
    Most(warnings=12, changed=3, hosts=6, stack=3, endpoint=4, ask=8, attention=6, next=6),
    Most(warnings=12, changed=3, hosts=6, stack=3, endpoint=4, ask=0, attention=4, next=6),
    Most(warnings=4, changed=1, hosts=4, stack=2, endpoint=3, ask=6, attention=4, next=4),
    Most(warnings=1, changed=1, hosts=3, stack=0, endpoint=1, ask=0, attention=1, next=6),
)
"""From most to least detailed; the request goes before a warning does. The first that leaves room for all failures is taken, else the last one."""


@dataclass
class Screen:
    """Lines of the screen, and the titles of sections that are cut."""

    groups: list[Group]
    failed: list[str] = field(default_factory=list)
    """All lines about failures; the screen may show fewer."""
    lines: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)


def first_screen(summary: Summary, groups: list[Group]) -> Screen:
    """Build the first screen, without the line that names the command for the details."""
    found, run = failures(summary, groups), [host.name for host in summary.hosts]
    screen = Screen(groups, failure_lines(found, run))
    left = LINES - (6 if found else 4)
    for most in BLOCKS:
        screen.cut.clear()
        block = _block(summary, most, screen)
        if rows(block) + len(screen.failed) <= left:
            break
    screen.lines += shortened(wording.headline(summary), 1)
    screen.lines += shortened(wording.facts_of_run(summary), 1, first=INDENT)
    if found:
        named = summary.run if is_query(summary.run) else None
        shown = within(found, run, left - rows(block), rest=wording.details(named))
        screen.lines += ["", "What failed", *shown]
        screen.cut |= {"What failed"} if shown != screen.failed else set()
    if block:
        screen.lines += ["", *block]
    return screen


def first_screen_of(text: str, run: str | None = None) -> str:
    """Return the first screen of a summary's text with the command for the rest; a text without details unchanged.

    `run` names a query, or a run other than the newest.
    """
    head, *details = _RULE.split(text, maxsplit=1)
    if not details:
        return text
    return f"{head.rstrip()}\n{'Details':<{LABEL}}{wording.details(run)}\n"


def _block(summary: Summary, most: Most, screen: Screen) -> list[str]:
    """Return the labelled lines below the failures, from warnings to next commands."""
    columns = COLUMNS - LABEL
    warnings = [*wording.warnings(summary, screen.groups)]
    shown = fitted(warnings, most.warnings, columns=columns)
    if shown != [line for item in warnings for line in wrap(item, columns=columns)]:
        screen.cut.add("Warnings")
    changed = fitted([*_changed(summary)], most.changed, columns=columns) if most.changed else []
    stacks = fitted(_stacks(summary), most.stack, columns=columns) if most.stack else []
    gateways = [fact for host in summary.hosts if host.gateway for fact in [*wording.gateway_facts(host.gateway)][:2]]
    monitors = []
    for host in summary.hosts:
        if host.monitoring:
            read = {name for names in host.monitoring.targets.values() for name in names}
            monitors.append(f"{host.monitoring.prometheus} on {host.name} for {count(len(read), 'host')}")
    return [
        *_labelled("Warnings", shown),
        *_labelled("Changed", changed),
        *_labelled("Hosts", _hosts(summary, screen.groups, most.hosts)),
        *_labelled("Versions" if any(host.stack for host in summary.hosts) else "Devices", stacks),
        *_labelled("Gateway", fitted(gateways, most.endpoint, columns=columns)),
        *_labelled("Endpoint", () if gateways else _endpoints(summary, most.endpoint)),
        *_ask(summary, most.ask),
        *_labelled("Monitoring", fitted(monitors, most.endpoint, columns=columns)),
        *_labelled(
            "Attention",
            fitted(_attention(summary, screen.groups, most.attention, screen), most.attention, columns=columns),
        ),
        *_next(summary, most.next, screen),
    ]


def _labelled(label: str, lines: Iterable[str]) -> list[str]:
    return [f"{'' if number else label:<{LABEL}}{line}".rstrip() for number, line in enumerate(lines)]


def _changed(summary: Summary) -> Iterator[str]:
    """List what a rollback changed, and what changed on failed hosts since their last green run."""
    back = gather((host.rolled_back, host.name) for host in summary.hosts if host.rolled_back)
    for changes, names in back.items():
        where = f" on {fold_names(names)}" if len(summary.hosts) > 1 else ""
        yield f"rolled back{where}: {', '.join(changes)}"
    for _, entry in grouped(host.since_green for host in summary.hosts if host.since_green):
        shown = [f"{change.part}: {sentence(change)}" for change in entry.changes if change.part != "state"]
        if shown:
            yield f"since run {entry.before}: {shown[0]}"
            yield from shown[1:]


def _hosts(summary: Summary, groups: Sequence[Group], most: int) -> Iterator[str]:
    """Yield one line for hosts with the same result: failed hosts first, then those with warnings."""
    alike: dict[tuple[int, int, str], list[str]] = {}
    states = [*wording.STATE_WORDS, *wording.ROLES]
    for group in groups:
        warned = group.first.has_warnings
        words = _words(group.first) + (", with warnings" if warned and len(groups) > 1 else "")
        rank = (states.index(wording.kind(group.first)), 0 if warned else 1, words)
        alike.setdefault(rank, []).extend(host.name for host in group.hosts)
    rows = sorted(alike.items(), key=lambda item: item[0])
    shown = rows if len(rows) <= most else rows[: most - 1]
    run = [host.name for host in summary.hosts]
    cells = [(names, f"{len(names)} hosts, {words}" if len(names) > 1 else words) for (_, _, words), names in shown]
    left = COLUMNS - LABEL - 2 - max((width(words) for _, words in cells), default=0)
    names_of = [short_names(names, run, min(MOST_NAMES, left)) for names, _ in cells]
    widest = max(map(width, names_of), default=0)
    for names, (_, words) in zip(names_of, cells, strict=True):
        yield f"{names}{' ' * (widest - width(names))}  {words}"
    numbers = Counter(states[place] for (place, _, _), members in rows[len(shown) :] for _ in members)
    if numbers:
        counts = ", ".join(f"{number} {state}" for state, number in numbers.items())
        yield from shortened(f"and {counts}", 1, columns=COLUMNS - LABEL)


def _words(host: HostSummary) -> str:
    """Return state, failed phase and whether the host was changed."""
    changed = "changed" if host.changed else "unchanged"
    phase = next((name for name, result in host.phases.items() if result.status in ("failed", "interrupted")), None)
    state = f"{host.state} in {phase}" if phase else wording.kind(host)
    return state if state == changed else f"{state}, {changed}"


def _stacks(summary: Summary) -> list[str]:
    """Return each Stack with its devices, the most frequent first."""
    models = [host for host in summary.hosts if wording.role(host) is None]
    parts = ((describe_build(host.stack) if host.stack else "", *host.devices[:1]) for host in models)
    kinds = Counter(shown for each in parts if (shown := " on ".join(filter(None, each))))
    if len(kinds) == 1:
        return list(kinds)
    return [f"{count(hosts, 'host')}: {shown}" for shown, hosts in kinds.most_common()]


def _endpoints(summary: Summary, most: int) -> list[str]:
    """Return each endpoint with its model and hosts, and the key file of the first."""
    hosts_of = group_endpoints(summary.hosts)
    run, items = [host.name for host in summary.hosts], []
    for endpoint, hosts in hosts_of:
        where = f" on {short_names([host.name for host in hosts], run, MOST_NAMES)}" if len(run) > 1 else ""
        items.append(f"{named_endpoint(endpoint, hosts)}{where}")
    if most == 1 or not items:
        return fitted(items, most, columns=COLUMNS - LABEL)
    file = hosts_of[0][1][0].key_file
    key = f"API key in {clean(file)} on the host" if file else ""
    rest = [key] if key and width(key) <= COLUMNS - LABEL else []
    return [*fitted(items, most - len(rest), columns=COLUMNS - LABEL), *rest]


def _ask(summary: Summary, most: int) -> list[str]:
    """Return the commands that send a prompt through the gateway, else to the first host; none where they do not fit, as `chat` does the same."""
    call = wording.first_call(summary)
    lines = [line for entry in call for line in command_lines(entry, indent=" " * LABEL)]
    if not lines or rows(lines) > most:
        return []
    # A line may go on in the first column, as the shell needs it.
    return [f"{'Ask':<{LABEL}}{lines[0].lstrip()}", *lines[1:]]


def _attention(summary: Summary, groups: Sequence[Group], most: int, screen: Screen) -> list[str]:
    """Return the attention back end in use on hosts that ended well, with the evidence."""
    well = [group for group in groups if group.first.state not in ENDED_BADLY]
    evidence = min(most - 1, 1)

    def body(group: Group) -> Iterator[str]:
        yield from filter(None, [wording.attention_facts(group.first)])
        yield from group.first.attention.evidence[:evidence]
        yield from wording.proof(group.first)

    shown = [*merged_sections([host.name for host in summary.hosts], well, body)]
    has_more = any(len(group.first.attention.evidence) > evidence for group in well)
    if has_more or len(shown) > 1 or len(groups) > len(well):
        screen.cut.add("Attention")
    if len(shown) == 1 and most > 1:
        return list(shown[0][1])
    return [f"{names}: {'; '.join(lines)}" if len(shown) > 1 else "; ".join(lines) for names, lines in shown]


def _next(summary: Summary, most: int, screen: Screen) -> list[str]:
    """What to type next, whole commands only: a cut one does not run."""
    lines: list[str] = []
    for first, *rest in purposes_and_commands(summary.next_commands, LABEL):
        if rows([*lines, first, *rest]) > most:
            screen.cut.add("Next")
            break
        lines += [f"{'' if lines else 'Next':<{LABEL}}{first}", *rest]
    if summary.next_commands and not lines:
        return _labelled("Next", [f"{purpose(summary.next_commands[0])}: the details have the command, which is long"])
    return lines

"""Content of the page as plain values: the summary, host groups, and tables."""

from collections.abc import Iterable, Mapping

from provision.core.folders import as_typed
from provision.core.models.records import HostDifference, Summary
from provision.report import wording
from provision.report.difference.text import grouped
from provision.report.group import group_endpoints, group_hosts, named_endpoint
from provision.report.layout import clean, duration, fold_names
from provision.report.next_steps import purpose
from provision.report.page.figures import LOAD_CHECK, LOAD_COLUMNS, FigureRow, figure_rows, gpu_table, load_rows
from provision.report.page.hosts import (
    HostLine,
    HostsClass,
    Tone,
    checks_in_words,
    classes,
    state_counts,
)
from provision.report.page.series import series_tables, startup

TONES: dict[str, Tone] = {"green": "good", "amber": "warning", "red": "bad"}


class Page:
    """Content of the page in reading order.

    Args:
        summary: Summary of the run.
        changed: What changed on each host since it was green last.
    """

    LOAD_COLUMNS = tuple(LOAD_COLUMNS.values())
    GPUS_SHOWN = 32
    """Number of GPUs above which only those beyond a bound are shown at first."""
    BEYOND = "Figures beyond their bounds"
    MAP_FROM = 12
    """Number of hosts above which a map of them is shown."""

    def __init__(self, summary: Summary, *, changed: Mapping[str, HostDifference] | None = None) -> None:
        self.summary = summary
        self.headline = wording.headline(summary).partition(": ")[2]
        self.facts = tuple(_facts(summary))
        self.next_commands = tuple((purpose(command), command) for command in summary.next_commands)
        groups = group_hosts(summary.hosts)
        self.problems = wording.wrong_groups(groups)
        self.endpoints = tuple(_endpoints(summary))
        """What clients have to know, and the hosts that it is about."""
        self.call = wording.first_call(summary)
        """Commands that send a prompt."""
        odd = (
            f"check {check}: {told}"
            for status, check, told in wording.host_comparison(summary)
            if status in ("fail", "error")
        )
        self.warnings = (*odd, *wording.warnings(summary, groups))
        self.classes = classes(summary)
        class_of = {host.name: each.number for each in self.classes for host in each.hosts}
        self.hosts = tuple(
            HostLine(number, host, summary, class_of[host.name]) for number, host in enumerate(summary.hosts, 1)
        )
        """In inventory order."""
        self.longest = max((line.seconds for line in self.hosts), default=0.0) or 1.0
        """Seconds of the slowest host, which the bars of the phases are measured by."""
        self.states = state_counts(self.hosts)
        self.gpus = gpu_table(summary.hosts)
        self.changes = sorted(grouped((changed or {}).values()), key=lambda group: -len(group[1].changes))
        """What changed since the last green run, hosts with equal changes together."""
        self.series = tuple(series_tables(self.classes))
        figures = figure_rows((each.number, host) for each in self.classes for host in each.hosts)
        self.figures = tuple(row for row in figures if row.check != LOAD_CHECK or row.bound)
        self.load = load_rows(figures)
        """Time to first token and tokens/s, as `load_rows` returns them."""
        self.startup = startup(summary.hosts)
        start = as_typed("./firstlight verify")
        found = [command for command in summary.next_commands if command.startswith(start)]
        verify = next((command for command in found if "--return" not in command), None)
        self.measure = f"{verify} --only serving --level full" if verify else None
        """The command that measures the load."""

    @property
    def tone(self) -> Tone:
        """Return the colour of the verdict."""
        return TONES[self.summary.verdict]

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Return id and title of the sections with content."""
        own = (
            ("failed", "What failed", self.problems),
            ("endpoint", "Endpoint", self.endpoints),
            ("warnings", "Warnings", self.warnings),
            ("next", "Next", self.next_commands),
            ("hosts", "Hosts", self.hosts),
            ("gpus", "GPUs", self.gpus.rows),
            ("serving", "Serving", self.load or self.startup),
            ("changes", "Since the last green run", self.changes),
            ("measured", "Measured", self.series or self.figures),
            ("checks", "Checks", any(each.checks for each in self.classes)),
            ("stack", "Versions", self.planned),
        )
        return tuple((id_, title) for id_, title, content in own if content)

    @property
    def planned(self) -> tuple[HostsClass, ...]:
        """Return the classes for which versions were chosen or refused."""
        return tuple(each for each in self.classes if each.stack or each.chosen or each.refused)

    @property
    def ordered(self) -> tuple[HostLine, ...]:
        """Return failed hosts first, then those with warnings, else in inventory order."""
        rank = {"bad": 0, "warning": 1}
        return tuple(sorted(self.hosts, key=lambda line: rank.get(line.tone, 2)))

    @property
    def is_single(self) -> bool:
        """Return whether every figure has one reading, so that lowest, median and highest are equal."""
        return all(row.readings == 1 for row in self.figures)

    @property
    def figure_tables(self) -> tuple[tuple[str, tuple[FigureRow, ...]], ...]:
        """Return title and rows of figures that miss their bound, keep it, or have none."""
        return (
            (self.BEYOND, tuple(row for row in self.figures if row.beyond)),
            ("Figures within their bounds", tuple(row for row in self.figures if row.bound and not row.beyond)),
            ("Figures without a bound", tuple(row for row in self.figures if not row.bound)),
        )


def _endpoints(summary: Summary) -> Iterable[tuple[str, str]]:
    """Yield gateways, else each endpoint with its hosts, and where the key is."""
    gateways = [(host.name, host.gateway) for host in summary.hosts if host.gateway]
    for name, gateway in gateways:
        address, *facts = wording.gateway_facts(gateway)
        yield address, name
        yield from ((fact, "") for fact in facts)
    if gateways:
        return
    for endpoint, hosts in group_endpoints(summary.hosts):
        yield named_endpoint(endpoint, hosts), fold_names([host.name for host in hosts])
        if hosts[0].key_file:
            yield f"API key in {hosts[0].key_file} on the host", ""


def _facts(summary: Summary) -> Iterable[tuple[str, str]]:
    yield "run", summary.run
    yield "command", clean(f"./firstlight {summary.command}")
    if summary.started_at:
        yield "started", f"{summary.started_at[:10]} {summary.started_at[11:19]} UTC"
    yield "took", duration(summary.seconds)
    yield "hosts", f"{len(summary.hosts)}, {summary.changed} changed"
    if checks := checks_in_words(check for host in summary.hosts for check in host.checks):
        yield "checks", checks

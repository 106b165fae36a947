"""Content of the page as plain values: the summary, host groups, and drawings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from provision.core.frozen import frozen
from provision.core.models.records import HostDifference, Summary
from provision.report import wording
from provision.report.layout import clean, duration
from provision.report.next_steps import purpose
from provision.report.page.classes import HostsClass, classes
from provision.report.page.compared import Comparison
from provision.report.page.dot_plot import HEIGHT, WIDTH
from provision.report.page.figures import FigureRow, figure_rows
from provision.report.page.highlights import Changes, Problem, WarningEntry, changes, problems, warnings
from provision.report.page.hosts import HostLine, StateCount, Tone, checks_in_words, host_lines, state_counts
from provision.report.page.plot import Chart
from provision.report.page.rollout import RolloutView
from provision.report.page.series import series_charts
from provision.report.page.startup import startup
from provision.report.page.timeline import Timeline, read_clock, timeline

TONES: dict[str, Tone] = {"green": "good", "amber": "warning", "red": "bad"}
MAP_FROM = 12
"""Number of hosts above which a map of them is shown."""


@frozen
class Page:
    """Content of the page in reading order."""

    summary: Summary
    headline: str
    facts: tuple[tuple[str, str], ...]
    next_commands: tuple[tuple[str, str], ...]
    problems: tuple[Problem, ...]
    warnings: tuple[WarningEntry, ...]
    states: tuple[StateCount, ...]
    hosts: tuple[HostLine, ...]
    changes: tuple[Changes, ...]
    timeline: Timeline
    classes: tuple[HostsClass, ...]
    charts: tuple[Chart, ...]
    figures: tuple[FigureRow, ...]
    compared: tuple[tuple[str, Comparison], ...]
    """Hosts whose service was measured with two choices."""
    rollout: RolloutView | None
    """The rollout that the run belongs to."""
    files: tuple[str, ...]

    MAP_FROM = MAP_FROM
    DOT_PLOT_WIDTH = WIDTH
    DOT_PLOT_HEIGHT = HEIGHT

    @property
    def tone(self) -> Tone:
        """Return the colour of the verdict."""
        return TONES[self.summary.verdict]

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Return id and title of the sections with content."""
        has = {
            "rollout": self.rollout,
            "failed": self.problems,
            "warnings": self.warnings,
            "next": self.next_commands,
            "hosts": self.hosts,
            "changes": self.changes,
            "compared": self.compared,
            "measured": self.charts or self.figures,
            "checks": any(each.checks for each in self.classes),
            "stack": any(each.stack or each.chosen or each.refused for each in self.classes),
            "time": self.timeline.lanes,
            "records": self.files,
        }
        return tuple((id_, TITLES[id_]) for id_, content in has.items() if content)

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
    def checked(self) -> tuple[FigureRow, ...]:
        """Return figures with a bound, those that miss it first."""
        return tuple(sorted((row for row in self.figures if row.bound), key=lambda row: not row.beyond))

    @property
    def recorded(self) -> tuple[FigureRow, ...]:
        """Return figures without a bound."""
        return tuple(row for row in self.figures if not row.bound)


TITLES = {
    "rollout": "Rollout",
    "failed": "What failed",
    "warnings": "Warnings",
    "next": "Next",
    "hosts": "Hosts",
    "changes": "Since the last green run",
    "compared": "Before and after",
    "measured": "Measured",
    "checks": "Checks",
    "stack": "Versions",
    "time": "Time",
    "records": "Records",
}


def view(
    summary: Summary,
    events: Iterable[Mapping[str, Any]],
    *,
    changed: Mapping[str, HostDifference] | None = None,
    compared: tuple[tuple[str, Comparison], ...] = (),
    rollout: RolloutView | None = None,
    files: tuple[str, ...] = (),
    files_of: Mapping[str, tuple[str, ...]] | None = None,
) -> Page:
    """Build the page of a run.

    Args:
        summary: Summary of the run.
        events: Events of the run, oldest first.
        changed: What changed on each host since it was green last.
        compared: Hosts whose service was measured with two choices.
        rollout: The rollout that the run belongs to.
        files: Files of the whole run, relative to its folder.
        files_of: Files of each host, relative to the run's folder.
    """
    grouped = classes(summary)
    class_of = {host.name: each.number for each in grouped for host in each.hosts}
    clock = read_clock(events, started_at=summary.started_at, seconds=summary.seconds)
    lines = host_lines(summary, class_of, clock, files_of or {})
    numbered = [(each.number, host) for each in grouped for host in each.hosts]
    drawn = [*series_charts(grouped), startup(summary.hosts)]
    return Page(
        summary=summary,
        headline=wording.headline(summary).partition(": ")[2],
        facts=tuple(_facts(summary)),
        next_commands=tuple((purpose(command), command) for command in summary.next_commands),
        problems=tuple(problems(summary)),
        warnings=tuple(warnings(summary)),
        states=state_counts(lines),
        hosts=lines,
        changes=tuple(changes(changed or {})),
        timeline=timeline(clock),
        classes=grouped,
        charts=tuple(chart for chart in drawn if chart is not None),
        figures=figure_rows(numbered),
        compared=compared,
        rollout=rollout,
        files=files,
    )


def _facts(summary: Summary) -> Iterable[tuple[str, str]]:
    yield "run", summary.run
    yield "command", clean(f"firstlight {summary.command}")
    if summary.started_at:
        yield "started", f"{summary.started_at[:10]} {summary.started_at[11:19]} UTC"
    yield "took", duration(summary.seconds)
    yield "hosts", f"{len(summary.hosts)}, {summary.changed} changed"
    if checks := checks_in_words(check for host in summary.hosts for check in host.checks):
        yield "checks", checks

"""Upper bounds for dependencies. vLLM leaves most of them open, and newer versions break older releases."""

from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from typing import NamedTuple

from provision.catalog import catalog
from provision.catalog.rows.builds import Bound, Timeline
from provision.catalog.versions import between
from provision.core.models.stack import DependencyPlan
from provision.phases.plan.build_option import BuildOption


class Dependencies(NamedTuple):
    """The plan, and the rows behind it."""

    plan: DependencyPlan
    released: str | None
    rows: tuple[Bound | Timeline, ...]


def choose(option: BuildOption) -> Dependencies | None:
    """Return the bounds of a candidate's dependencies; None without vLLM."""
    return _of_release(option.release.version) if option.release else None


@cache
def _of_release(version: str) -> Dependencies:
    row = next(row for row in catalog().releases if row.version == version)
    until = _horizon(row.date)
    found = [*_ranges(version), *(_too_new(until) if until else ())]
    requirements = tuple(sorted(f"{row.distribution}{specifier}" for row, specifier in found))
    return Dependencies(
        DependencyPlan(until=until.isoformat() if until else None, bounds=requirements),
        row.date,
        tuple(row for row, _ in found),
    )


def _horizon(released: str | None) -> date | None:
    """Return the last upload day for dependencies; None for the newest releases and for an unknown release date."""
    newest = max(row.date for row in catalog().releases if row.date)
    table = catalog().horizon
    if released is None or (date.fromisoformat(newest) - date.fromisoformat(released)).days <= table.current_days:
        return None
    return date.fromisoformat(released) + timedelta(days=table.margin_days)


def _ranges(version: str) -> Iterator[tuple[Bound, str]]:
    oldest = catalog().releases[0].version
    for row in catalog().bounds:
        if between(version, row.since or oldest, row.until):
            yield row, row.specifier


def _too_new(until: date) -> Iterator[tuple[Timeline, str]]:
    """Yield for each dependency the first release that was uploaded after that day, as an upper bound."""
    for row in catalog().timelines:
        for entry in row.releases:
            day, _, version = entry.partition(" ")
            if day > until.isoformat():
                yield row, f"<{version}"
                break

"""Requirements besides vLLM: upper bounds for dependencies, most of which vLLM leaves open, and packages that a release lacks to send traces."""

from datetime import date, timedelta
from functools import cache
from pathlib import Path

from provision.catalog import catalog
from provision.catalog.versions import between, numbers
from provision.core.models.stack import DependencyPlan
from provision.core.tables import own_table
from provision.phases.plan.build_option import BuildOption


def choose(option: BuildOption) -> DependencyPlan | None:
    """Return the bounds of a candidate's dependencies; None without vLLM."""
    if option.release is None:
        return None
    oldest, until = catalog().releases[0].version, _horizon(option.release.date)
    ranges = [row for row in catalog().bounds if between(option.release.version, row.since or oldest, row.until)]
    bounds = [f"{row.distribution}{row.specifier}" for row in ranges] + (_too_new(until) if until else [])
    return DependencyPlan(until=until, bounds=tuple(sorted(bounds)))


def _horizon(released: str | None) -> str | None:
    """Return the last upload day for dependencies; None for the newest releases and for an unknown release date."""
    newest = max(row.date for row in catalog().releases if row.date)
    table = catalog().horizon
    if released is None or (date.fromisoformat(newest) - date.fromisoformat(released)).days <= table.current_days:
        return None
    return (date.fromisoformat(released) + timedelta(days=table.margin_days)).isoformat()


@cache
def _too_new(until: str) -> list[str]:
    """Return for each dependency the first release that was uploaded after that day, as an upper bound."""
    found = []
    for row in catalog().timelines:
        entries = (entry.partition(" ") for entry in row.releases)
        later = next((version for day, _, version in entries if day > until), None)
        if later:
            found.append(f"{row.distribution}<{later}")
    return found


def for_traces(option: BuildOption) -> tuple[str, ...]:
    """Return the requirements with which a release sends traces; none if vLLM brings them."""
    table = own_table(Path(__file__).with_name("tracing.toml"))
    if option.release is None or numbers(option.release.version) >= numbers(table["bundled_since"]):
        return ()
    return tuple(table["requirements"])

"""Packages that a release of vLLM needs to send traces, and does not name itself."""

from __future__ import annotations

from pathlib import Path

from provision.catalog.versions import numbers
from provision.core.tables import own_table
from provision.phases.plan.build_option import BuildOption


def choose(option: BuildOption, *, wanted: bool) -> tuple[str, ...]:
    """Return the requirements; none where traces are not wanted, or vLLM brings the packages.

    Args:
        wanted: Whether the service is to send traces.
    """
    table = own_table(Path(__file__).with_name("tracing.toml"))
    if not wanted or option.release is None or numbers(option.release.version) >= numbers(table["bundled_since"]):
        return ()
    return tuple(table["requirements"])

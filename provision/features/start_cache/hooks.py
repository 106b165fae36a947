"""Where start caches take part in the work of the core: around the starts of services."""

from collections.abc import Collection, Sequence
from pathlib import Path

from provision.core.models.inventory import Host
from provision.features.start_cache.sharing import PROGRAM, StartCaches
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts


def host_programs(folder: Path) -> dict[str, Path]:
    """Return the program that packs and unpacks caches."""
    del folder
    return {PROGRAM.name: PROGRAM}


def starts(
    context: RunContext, verified: VerifiedHosts, hosts: Sequence[Host], *, still: Collection[str]
) -> StartCaches:
    """Return the start caches of the hosts that a run starts."""
    return StartCaches(context, verified, hosts, still=still)

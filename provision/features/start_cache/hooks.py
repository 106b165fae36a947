"""Where start caches take part in the work of the core: around the starts of services."""

from pathlib import Path

from provision.features.start_cache.sharing import PROGRAM, StartCaches

__all__ = ["host_programs", "starts"]

starts = StartCaches
"""The start caches of the hosts that a run starts."""


def host_programs(folder: Path) -> dict[str, Path]:
    """Return the program that packs and unpacks caches."""
    del folder
    return {PROGRAM.name: PROGRAM}

"""A run over hosts that are this machine, some of which may serve one model together."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provision.core.install_paths import InstallPaths
from provision.core.models.inventory import Connection, Host, Inventory, Span
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.report.live import open_progress
from provision.run.context import RunContext


def local_host(name: str = "a", *groups: str, span: Span | None = None, **settings: Any) -> Host:
    """Return a host that is this machine."""
    connection = Connection(kind="local")
    return Host(name=name, connection=connection, settings=Settings(**settings), groups=groups, span=span)


def own_paths(folder: Path) -> InstallPaths:
    """Return the paths of an installation of this account that has one folder for everything."""
    return InstallPaths(prefix=str(folder), incoming=str(folder), owner="root", root=False)


def local_context(
    folder: Path,
    names: Sequence[str],
    *,
    together: str = "",
    settings: dict[str, Any] | None = None,
    **fields: Any,
) -> RunContext:
    """Return a run.

    Args:
        folder: Where its records and its cache are.
        names: The hosts; of a text each letter is one.
        together: Those of them that are one span.
        settings: Settings of each host.
        **fields: Further fields of the context.
    """
    span = Span(members=tuple(together), addresses=tuple(together)) if together else None
    hosts = tuple(local_host(name, span=span if name in together else None, **(settings or {})) for name in names)
    return RunContext(
        run=RunFolder.create(folder / "logs", command="provision"),
        inventory=Inventory(source="/site/hosts.yml", hosts=hosts),
        progress=open_progress([*names], stream=io.StringIO(), environment={}),
        cache=folder / "controller",
        **fields,
    )

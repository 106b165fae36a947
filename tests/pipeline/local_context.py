"""A run over hosts that are this machine, some of which may serve one model together."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from provision.core.models.inventory import Connection, Host, Inventory, Span
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.report.live import open_progress
from provision.run.context import RunContext


def local_context(folder: Path, names: str, *, together: str = "", **fields: Any) -> RunContext:
    """Return a run.

    Args:
        folder: Where its records and its cache are.
        names: The hosts, a letter each.
        together: Those of them that are one span.
        **fields: Further fields of the context.
    """
    span = Span(members=tuple(together), addresses=tuple(together)) if together else None
    hosts = tuple(
        Host(
            name=name,
            connection=Connection(kind="local"),
            settings=Settings(),
            span=span if name in together else None,
        )
        for name in names
    )
    return RunContext(
        run=RunFolder.create(folder / "logs", command="provision"),
        inventory=Inventory(source="/site/hosts.yml", hosts=hosts),
        progress=open_progress([*names], stream=io.StringIO(), environment={}),
        cache=folder / "controller",
        **fields,
    )

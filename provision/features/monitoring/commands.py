"""`./firstlight monitoring`: Prometheus, its alerts and exporters."""

from __future__ import annotations

from typing import Any

import typer

from provision.cli.options import CHANGED, InventoryOption, VerboseOption, asked, takes
from provision.core.errors import InventoryError
from provision.core.models.inventory import MONITORING


@takes(after=CHANGED)
def monitoring(
    *,
    inventory: InventoryOption = None,
    verbose: VerboseOption = False,
    **options: Any,
) -> None:
    """Set up Prometheus and its alerts on hosts of group `monitoring`, and exporters on all others."""
    from provision.pipeline.commands import run_steps
    from provision.pipeline.phases import BEFORE_PLAN, fleet_steps
    from provision.pipeline.runner import read_inventory

    request = asked("monitoring", inventory=inventory, verbose=verbose, **options)
    if not any(host.is_monitoring for host in read_inventory(request).hosts):
        raise InventoryError(
            f"the inventory `{request.inventory}` has no group `{MONITORING}` with a host",
            hint="add the group with a host that may read the metrics of all others; docs/guides/monitoring.md shows one",
        )
    raise typer.Exit(run_steps(request, (*BEFORE_PLAN, *fleet_steps("monitoring", "firewall"))))


def add_to(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.command()(monitoring)

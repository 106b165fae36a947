"""`./firstlight monitoring`: Prometheus, its alerts and exporters, and the targets of a Prometheus outside of the inventory."""

from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.groups import with_default
from provision.cli.options import CHANGED, BecomeOption, InventoryOption, VerboseOption, asked, takes
from provision.core.errors import InventoryError
from provision.core.models.inventory import MONITORING

app = typer.Typer(
    cls=with_default("set-up"),
    help="Set up Prometheus with its alerts and exporters, or list targets for your own; `monitoring` alone runs `monitoring set-up`.",
    rich_markup_mode=None,
)


@app.command("set-up")
@takes(after=CHANGED)
def set_up(
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


@app.command()
def targets(
    *,
    inventory: InventoryOption = None,
    verbose: VerboseOption = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write, or to replace. Default: standard output."),
    ] = None,
    ask_become_pass: BecomeOption = False,
) -> None:
    """List targets for your own Prometheus, as a file for its `file_sd_configs`; no host is changed."""
    from provision.features.monitoring import service_discovery

    request = asked("monitoring", inventory=inventory, verbose=verbose, ask_become_pass=ask_become_pass)
    raise typer.Exit(service_discovery.targets(request, output))


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="monitoring")

"""`./firstlight gateway ...`: one address in front of all hosts, and its traffic. Thin: each command calls one function."""

from typing import Annotated, Any

import typer

from provision.cli.groups import with_default
from provision.cli.options import CHANGED, InventoryOption, VerboseOption, asked, takes

app = typer.Typer(
    cls=with_default("set-up"),
    help="Set up the gateway in front of the hosts that serve, and control its traffic: `gateway` alone runs `gateway set-up`.",
    rich_markup_mode=None,
)

HostsArgument = Annotated[list[str], typer.Argument(metavar="HOST", help="Hosts of the inventory.")]


@app.command("set-up")
@takes(after=CHANGED)
def set_up(*, inventory: InventoryOption = None, verbose: VerboseOption = False, **options: Any) -> None:
    """Set up the gateway in front of the hosts that serve: one address, TLS, a key for each client."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, verbose=verbose, **options)
    raise typer.Exit(operations.set_up(request))


@app.command()
@takes(after=CHANGED)
def status(*, inventory: InventoryOption = None, **options: Any) -> None:
    """Show the traffic of each host: state, share, running and total requests, errors."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, **options)
    raise typer.Exit(operations.status(request))


@app.command()
@takes(after=CHANGED)
def usage(*, inventory: InventoryOption = None, **options: Any) -> None:
    """Show the tokens that each client has used in this minute and this day (UTC), and what is left."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, **options)
    raise typer.Exit(operations.usage(request))


@app.command()
@takes(after=CHANGED)
def drain(
    *,
    hosts: HostsArgument,
    inventory: InventoryOption = None,
    within: Annotated[
        float | None,
        typer.Option(
            "--within",
            min=0,
            metavar="SECONDS",
            help="How long to wait for running requests. Default: firstlight_gateway_drain_seconds.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also drain the last host of a model; clients then get 503.")
    ] = False,
    **options: Any,
) -> None:
    """Send no new requests to hosts from any gateway, and wait until the running ones have ended."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, **options)
    raise typer.Exit(operations.drain(request, hosts, within_s=within, force=force))


@app.command()
@takes(after=CHANGED)
def ready(*, hosts: HostsArgument, inventory: InventoryOption = None, **options: Any) -> None:
    """Send requests to drained hosts again, from every gateway."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, **options)
    raise typer.Exit(operations.ready(request, hosts))


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="gateway")

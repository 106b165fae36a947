"""`./firstlight gateway ...`: one address in front of all hosts, and its traffic. Thin: each command calls one function."""

from __future__ import annotations

from typing import Annotated

import typer

from provision.cli.groups import with_default
from provision.cli.options import BecomeOption, InventoryOption, JsonOption, VerboseOption, asked

app = typer.Typer(
    cls=with_default("set-up"),
    help="Set up the gateway in front of the hosts that serve, and control its traffic: `gateway` alone runs `gateway set-up`.",
    rich_markup_mode=None,
)

HostsArgument = Annotated[list[str], typer.Argument(metavar="HOST", help="Hosts of the inventory.")]


@app.command("set-up")
def set_up(
    *,
    inventory: InventoryOption = None,
    verbose: VerboseOption = False,
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set up the gateway in front of the hosts that serve: one address, TLS, a key for each client."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, verbose=verbose, ask_become_pass=ask_become_pass)
    raise typer.Exit(operations.set_up(request, as_json=as_json))


@app.command()
def status(
    *,
    inventory: InventoryOption = None,
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the traffic of each host: state, share, running and total requests, errors."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, ask_become_pass=ask_become_pass)
    raise typer.Exit(operations.status(request, as_json=as_json))


@app.command()
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
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop new requests to hosts at every gateway, and wait until the running ones have ended."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, ask_become_pass=ask_become_pass)
    raise typer.Exit(operations.drain(request, hosts, within_s=within, force=force, as_json=as_json))


@app.command()
def ready(
    *,
    hosts: HostsArgument,
    inventory: InventoryOption = None,
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send requests to drained hosts again, at every gateway."""
    from provision.features.gateway import operations

    request = asked("gateway", inventory=inventory, ask_become_pass=ask_become_pass)
    raise typer.Exit(operations.ready(request, hosts, as_json=as_json))


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="gateway")

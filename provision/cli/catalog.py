"""`./firstlight catalog`: the tables of known builds."""

from __future__ import annotations

import typer

from provision.catalog.refresh import commands
from provision.cli.groups import HelpGroup

app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Add new releases to the catalog, which lists the known builds.",
)


@app.command("check", hidden=True)
def check() -> None:
    """Check every row: its values, its references, its source."""
    text, code = commands.check_tables()
    typer.echo(text)
    raise typer.Exit(code)


@app.command("refresh")
def refresh() -> None:
    """Add the new releases of your package index to the catalog."""
    typer.echo(commands.refresh_tables())

"""`./firstlight catalog`: the tables of known builds."""

from __future__ import annotations

import typer

from provision.cli.groups import HelpGroup

app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Add new releases to the catalog, which lists the known builds.",
)


@app.command("check", hidden=True)
def check() -> None:
    """Check the values, references and source of every row."""
    from provision.features.catalog_refresh.check import check_tables

    text, code = check_tables()
    typer.echo(text)
    raise typer.Exit(code)


@app.command("refresh")
def refresh() -> None:
    """Add the new releases of your package index to the catalog."""
    from provision.features.catalog_refresh.new_releases import refresh_tables

    typer.echo(refresh_tables())


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="catalog")

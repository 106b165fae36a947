"""`./firstlight catalog`: the tables of known builds."""

from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import command_group
from provision.core.errors import UsageError

app = command_group("Add new releases to the catalog, which lists the known builds.")


@app.command("refresh")
def refresh(
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Then test the newest combination: lock, install and load it in a temporary folder of this machine. Takes minutes, and about 15 GB of disk.",
        ),
    ] = False,
    what_if: Annotated[
        str | None,
        typer.Option(
            "--what-if",
            metavar="DESCRIPTION",
            help="With --prove: the host whose combination is tested, as for plan, such as gpu=none. Default: a host with one H100.",
        ),
    ] = None,
    libraries: Annotated[
        Path | None,
        typer.Option(
            "--libraries",
            metavar="DIR",
            help="With --prove, on a machine without NVIDIA's driver: a folder with its libcuda.so.1 and libnvidia-ml.so.1.",
        ),
    ] = None,
) -> None:
    """Add the new releases of your package index to the catalog."""
    from provision.features.catalog_refresh import proof
    from provision.features.catalog_refresh.new_releases import refresh_tables

    if not prove and (what_if or libraries):
        raise UsageError("`--what-if` and `--libraries` are for `--prove`", hint="add --prove, or remove them")
    typer.echo(refresh_tables())
    for line in proof.prove(what_if, libraries) if prove else ():
        typer.echo(line)


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="catalog")

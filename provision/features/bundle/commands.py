"""`./firstlight bundle`: everything that hosts need, in one file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.groups import command_group
from provision.cli.options import PLANNING, RefreshOption, WhatIfOption, asked, refuse_with, takes

app = command_group("Write everything that hosts need into one signed file, for offline installation.")


@app.command("create")
@takes(*PLANNING)
def create(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    what_if: WhatIfOption = None,
    refresh: RefreshOption = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Secret key (minisign) that signs the bundle. Default: ~/.config/firstlight/bundle.key, created on first use.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Fetch everything that hosts need into one signed file, for networks without a package index."""
    from provision.features.bundle import create as pipeline

    if what_if is not None:
        refuse_with("--what-if", limit=options["limit"])
    request = asked("bundle", refresh=refresh, **options)
    raise typer.Exit(pipeline.create(request, what_if=what_if, output=output, key=key))


def add_to(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.add_typer(app, name="bundle")

"""`./firstlight bundle`: everything that hosts need, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.groups import HelpGroup
from provision.cli.options import RefreshOption, asked, refuse_with, with_planning

app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write everything that hosts need into one signed file.",
)


@app.command("create")
@with_planning
def create(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")],
    what_if: Annotated[
        str | None,
        typer.Option(
            "--what-if",
            metavar="DESCRIPTION",
            help="Plan for a host that you describe, such as 8xH100, or 'gpu=H100x8 driver=580.95.05 os=ubuntu-24.04'.",
        ),
    ] = None,
    refresh: RefreshOption = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Secret key (minisign) that signs the bundle. Default: your own, created on first use.",
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

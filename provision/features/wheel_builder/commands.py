"""`./firstlight wheels`: build packages from source before a run, and list what was built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import HelpGroup
from provision.cli.options import JsonOption
from provision.core.folders import default_inventory
from provision.features.wheel_builder import build_command

app = typer.Typer(
    cls=HelpGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build packages such as flash-attn from source, once for all hosts.",
)


@app.command("build")
def build(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="NAME==VERSION; `flash-attn` alone means its newest release.")
    ] = "flash-attn",
    *,
    torch: Annotated[
        str,
        typer.Option(
            "--torch",
            metavar="VERSION",
            help="The torch release that the wheel is for, such as 2.11.0 or 2.11.0+cu130.",
        ),
    ],
    arch: Annotated[
        list[str],
        typer.Option("--arch", metavar="CAPABILITY", help="Compute capability of the GPUs, such as 9.0. Repeatable."),
    ],
    cuda: Annotated[
        str | None,
        typer.Option(
            "--cuda", metavar="VERSION", help="Release of the CUDA toolkit to build with. Default: that of torch."
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="VERSION",
            help="Python version that the wheel is for, such as 3.12. Default: that of Firstlight itself.",
        ),
    ] = None,
    builder: Annotated[
        str,
        typer.Option(
            "--builder", metavar="HOST", help="Where to build: `controller` (this machine), or a host of the inventory."
        ),
    ] = "controller",
    inventory: Annotated[
        Path | None,
        typer.Option(
            "--inventory", "-i", metavar="PATH", help="Inventory that contains the builder. Default: this machine."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a wheel, or print the one that exists; an interrupted build continues where it stopped."""
    raise typer.Exit(
        build_command.build(
            inventory or default_inventory(),
            package=package,
            torch=torch,
            cuda=cuda,
            archs=arch,
            python=python,
            builder=builder,
            as_json=as_json,
        )
    )


@app.command("list")
def show(
    as_json: JsonOption = False,
) -> None:
    """List the wheels that were built."""
    raise typer.Exit(build_command.show(as_json=as_json))


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="wheels")

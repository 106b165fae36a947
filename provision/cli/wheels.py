"""`./firstlight wheels`: build packages from their source ahead of a run, and see what was built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provision.cli.options import LOCAL, JsonOption

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build packages such as flash-attn from source, once for each key.",
)


@app.command("build")
def build(
    package: Annotated[
        str, typer.Argument(help="NAME==VERSION; flash-attn alone is its newest release.")
    ] = "flash-attn",
    *,
    torch: Annotated[
        str, typer.Option("--torch", help="The release that the wheel is for, as 2.11.0 or 2.11.0+cu130.")
    ],
    arch: Annotated[list[str], typer.Option("--arch", help="Compute capability of the cards, as 9.0; several times.")],
    cuda: Annotated[str | None, typer.Option("--cuda", help="Release of the toolkit. Default: torch's own.")] = None,
    python: Annotated[str | None, typer.Option("--python", help="Minor version. Default: this product's own.")] = None,
    builder: Annotated[str, typer.Option("--builder", help="controller, or a host of the inventory.")] = "controller",
    inventory: Annotated[
        Path | None, typer.Option("--inventory", "-i", help="Where the builder is named. Default: this machine.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a wheel into the wheelhouse, or name the one that is there; taken up where it stopped."""
    from provision.pipeline import wheel_builder  # noqa: PLC0415 - `--help` must not pay for it

    raise typer.Exit(
        wheel_builder.build(
            inventory or LOCAL,
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
    """Every wheel that was built, by its key."""
    from provision.pipeline import wheel_builder  # noqa: PLC0415 - `--help` must not pay for it

    raise typer.Exit(wheel_builder.show(as_json=as_json))

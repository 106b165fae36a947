"""`./firstlight drift`: hosts that should be equal, compared."""

from typing import Annotated, Any

import typer

from provision.cli.options import HOSTS, PRINTED, asked, takes


@takes(*HOSTS, after=PRINTED)
def drift(
    *,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="HOST|FILE",
            help="Reference: a host, or a file with the facts of one. Default: the majority of the hosts with the same GPUs.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Compare hosts that should be equal: GPUs, driver, firmware, kernel, settings, packages."""
    from provision.features.host_comparison import drift as pipeline

    raise typer.Exit(pipeline.drift(asked("drift", **options), against))


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(drift)

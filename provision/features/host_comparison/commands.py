"""`./firstlight drift`: hosts that should be equal, compared."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from provision.cli.options import HOSTS, PRINTED, asked, takes
from provision.core.errors import UsageError


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
    prometheus: Annotated[
        str | None,
        typer.Option(
            "--prometheus",
            metavar="FILE",
            hidden=True,
            help="Write the numbers here in Prometheus' text; - prints them.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Compare hosts that should be equal: GPUs, driver, firmware, kernel, settings, packages."""
    from provision.features.host_comparison import drift as pipeline

    request = asked("drift", **options)
    if prometheus == pipeline.STDOUT and request.as_json:
        raise UsageError(
            "`--json` and `--prometheus -` both print a document", hint="write one of them: --prometheus FILE"
        )
    raise typer.Exit(pipeline.drift(request, pipeline.DriftOptions(against, prometheus)))


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(drift)

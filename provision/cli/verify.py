"""`./firstlight verify ...`: checks of hosts. Thin: each command calls one function."""

from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.groups import with_default
from provision.cli.options import HOSTS, PRINTED, asked, takes
from provision.core.errors import UsageError
from provision.phases.verify.run_checks import CheckOptions
from provision.phases.verify.tool import Picked
from provision.pipeline import operations
from provision.pipeline.commands import write_stdout
from verify.records import BURN_IN, BURN_IN_HOURS, Level

app = typer.Typer(
    cls=with_default("check"),
    help="Check GPUs, libraries, the results of compute kernels and the running service; `verify` alone runs `verify check`.",
    rich_markup_mode=None,
)

PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix", metavar="FOLDER", help="Folder of the installation on the hosts, if it is not the default one."
    ),
]
JunitOption = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Also write the results to this file, as JUnit XML.")
]


@app.command()
@takes(*HOSTS, after=PRINTED)
def check(
    *,
    level: Annotated[
        Level | None, typer.Option("--level", help="How many checks run, and how deep they go. Default: standard.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            "--hours",
            metavar="N",
            min=0.001,
            help=f"Length of level burn-in, in hours. An interrupted one goes on with the next call. Default: {BURN_IN_HOURS:g}.",
        ),
    ] = None,
    prefix: PrefixOption = None,
    junit: JunitOption = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="Stop the service first, run the checks, then start and check the service again. Clients get no answers during that time.",
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="NAME", help="Run only this check or family of checks, of any level. Repeatable."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="NAME", help="Leave out this check or family of checks. Repeatable."),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the checks of this level, and run none.")] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            "--inject",
            metavar="FAULT[@NAME]",
            hidden=True,
            help="Falsify what the checks observe (with @NAME: what one check observes), to test that they notice it.",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Check GPUs, libraries, the results of compute kernels and the running service.

    The service keeps running, and may answer more slowly. Measurements that it would distort are skipped, unless --drain is given.
    """
    picked = Picked(tuple(only or ()), tuple(skip or ()), tuple(inject or ()))
    level = level or "standard"
    if hours is not None and level != BURN_IN:
        raise UsageError(
            "`--hours` is the length of level `burn-in`", hint="./firstlight verify --level burn-in --hours 24"
        )
    if listed:
        write_stdout(picked.listed(level, as_json=options["as_json"]))
        return
    request = asked("verify", prefix=prefix, **options)
    selection = picked if picked.words else None
    is_together = level != "quick" and selection is None
    wanted = CheckOptions(level, drain=drain, multihost=is_together, selection=selection, hours=hours)
    raise typer.Exit(operations.verify(request, wanted, junit_file=junit))


@app.command()
@takes(*HOSTS, after=PRINTED)
def soak(
    *,
    minutes: Annotated[float, typer.Option("--minutes", metavar="N", min=0.1, help="Duration, in minutes.")],
    prefix: PrefixOption = None,
    junit: JunitOption = None,
    **options: Any,
) -> None:
    """Send requests and run kernels for some minutes; errors and growing memory are failures."""
    request = asked("verify", prefix=prefix, **options)
    wanted = CheckOptions("quick", soak_minutes=minutes)
    raise typer.Exit(operations.verify(request, wanted, junit_file=junit))

"""`./firstlight rollout ...`: a new release, host by host, with a gate after each step."""

from pathlib import Path
from typing import Annotated, Any

import typer

from provision.cli.groups import with_default
from provision.cli.options import CHANGED, PLANNING, PRINTED, asked, takes

app = typer.Typer(
    cls=with_default("start"),
    help="Bring a new release to the hosts step by step: `rollout` alone runs `rollout start`.",
    rich_markup_mode=None,
)


@app.command()
@takes(*PLANNING, after=CHANGED)
def start(
    *,
    steps: Annotated[
        str,
        typer.Option(
            "--steps",
            metavar="N[:TIME],...",
            help="Percentage of the changing hosts that serve the new release after each step; 25:1h observes that step for at least an hour (s, m, h).",
        ),
    ] = "10,25,50,100",
    min_serving: Annotated[
        int, typer.Option("--min-serving", metavar="N", min=0, help="Number of hosts that must serve at any time.")
    ] = 0,
    hold: Annotated[
        float,
        typer.Option("--hold", metavar="SECONDS", min=0, help="Observe each step for at least this many seconds."),
    ] = 0.0,
    before_host: Annotated[
        str | None,
        typer.Option(
            "--before-host",
            metavar="COMMAND",
            help="Command that this machine runs before a host changes, to take the host ($FIRSTLIGHT_HOST) out of traffic.",
        ),
    ] = None,
    after_host: Annotated[
        str | None,
        typer.Option(
            "--after-host",
            metavar="COMMAND",
            help="Command that this machine runs after a host changed, to return it to traffic.",
        ),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(
            "--targets",
            metavar="FILE",
            help="File that the rollout keeps up to date with the hosts that take requests, in the format of Prometheus' file-based service discovery.",
        ),
    ] = None,
    **planned: Any,
) -> None:
    """Start a rollout: change and check hosts step by step; if a host fails or the new release is worse, roll all changed hosts back."""
    from provision.features.rollout import rollout
    from provision.features.rollout.model import RolloutOptions

    options = RolloutOptions(
        min_serving=min_serving,
        hold_s=hold,
        before_host=before_host,
        after_host=after_host,
        targets=str(targets.resolve()) if targets else None,
    )
    raise typer.Exit(rollout.start(asked("rollout", **planned), steps, options))


@app.command()
@takes(after=CHANGED)
def resume(**options: Any) -> None:
    """Continue the open rollout where it was paused, interrupted or killed."""
    from provision.features.rollout import rollout

    raise typer.Exit(rollout.resume(asked("rollout", **options)))


@app.command()
@takes(after=CHANGED)
def abort(**options: Any) -> None:
    """Return every changed host of the open rollout to the release that it served before."""
    from provision.features.rollout import rollout

    raise typer.Exit(rollout.abort(asked("rollout", **options)))


@app.command()
@takes(after=PRINTED)
def pause(**options: Any) -> None:
    """Pause the running rollout before its next host."""
    from provision.features.rollout import rollout

    raise typer.Exit(rollout.pause(asked("rollout", **options)))


@app.command()
@takes(after=PRINTED)
def status(**options: Any) -> None:
    """Show the progress of the newest rollout, with the numbers behind each decision."""
    from provision.features.rollout import rollout

    raise typer.Exit(rollout.status(asked("rollout", **options)))


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="rollout")

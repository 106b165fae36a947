"""`./firstlight logs ...`: past runs read, compared, put away. Thin: each command calls one function and prints."""

import json
from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import with_default
from provision.cli.options import LOGS, JsonOption
from provision.core.errors import UsageError
from provision.core.run_folder import require_writable
from provision.report.difference import compare_runs
from provision.report.difference.text import render
from provision.report.history import bundle, retention, runs
from provision.report.history.show import summary_text
from provision.report.page import write_and_open

app = typer.Typer(
    cls=with_default("show"),
    help="Read past runs: `logs` shows the newest, `logs RUN` another one.",
    rich_markup_mode=None,
)

RunArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="A run's name. Default: the newest run.")]


@app.command()
def show(
    *,
    run: RunArgument = None,
    full: Annotated[
        bool, typer.Option("--full", help="Show the details too: checks, devices, versions, durations.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the summary of a run: the screen that it printed, or with --full everything."""
    typer.echo(summary_text(LOGS, run, full=full, as_json=as_json))


@app.command("list")
def list_runs(*, as_json: JsonOption = False) -> None:
    """List all runs, the newest first."""
    typer.echo(runs.list_json(LOGS) if as_json else runs.list_text(LOGS))


@app.command()
def diff(
    before: Annotated[
        str | None, typer.Argument(metavar="A", help="The earlier run; by default each host's last green one.")
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="B", help="The later run; the newest by default.")] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what changed on each host: settings, versions, lock, facts, checks, figures."""
    found = compare_runs(LOGS, before, after)
    documents = [entry.model_dump(mode="json") for entry in found]
    typer.echo(json.dumps(documents, indent=2) if as_json else render(found).rstrip("\n"))


@app.command("open")
def open_page(
    *,
    run: RunArgument = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Whether to open a browser.")] = True,
) -> None:
    """Write the page of a run, a single HTML file, and open it in a browser."""
    path, hint = write_and_open(LOGS, run, browser=browser)
    typer.echo(path)
    if hint:
        typer.echo(hint, err=True)


@app.command()
def prune(
    *,
    keep: Annotated[
        int | None, typer.Option("--keep", metavar="N", min=1, help="Number of runs to keep. Default: 100.")
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            "--max-size", min=1, metavar="MIB", help="Disk space that the kept runs may use. Default: 2048 MiB."
        ),
    ] = None,
) -> None:
    """Remove old runs, except those in progress and the last green run of each host."""
    pruned = retention.prune(LOGS, keep=keep, max_mib=max_size)
    typer.echo(retention.render(pruned))
    raise typer.Exit(1 if pruned.problems else 0)


@app.command()
def archive(
    *,
    run: RunArgument = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The archive to write. Default: a name made from the run's."
        ),
    ] = None,
) -> None:
    """Pack a run into an archive for a bug report, without secrets."""
    folder = runs.find(LOGS, run)
    target = output or Path(f"firstlight-{folder.name}.tar.gz")
    require_writable(target, "--output")
    try:
        made = bundle.bundle(folder, target)
    except OSError as error:
        raise UsageError(
            f"`{target}` cannot be written: {error.strerror}", hint="name another file with --output"
        ) from None
    typer.echo(bundle.render(made))

"""`./firstlight verify ...`: checks of hosts, and of what a choice gains. Thin: each command calls one function."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from provision.cli.groups import with_default
from provision.cli.options import BecomeOption, JsonOption, asked, with_hosts
from provision.core.errors import UsageError

app = typer.Typer(
    cls=with_default("check"),
    help="Check that kernels run and compute correctly: `verify` alone runs `verify check`.",
    rich_markup_mode=None,
)

PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix", metavar="FOLDER", help="Folder of the installation on the hosts, if it is not the default one."
    ),
]


class Mode(StrEnum):
    """With and without a compiler."""

    EAGER = "eager"
    COMPILED = "compiled"


@app.command()
@with_hosts
def check(
    *,
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="HOST", help="With --return: only these quarantined hosts.")
    ] = None,
    level: Annotated[
        Literal["quick", "standard", "full"] | None,
        typer.Option("--level", help="How many checks run, and how deep they go. Default: standard."),
    ] = None,
    prefix: PrefixOption = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write the results to this file, as JUnit XML.")
    ] = None,
    drain: Annotated[
        bool,
        typer.Option(
            "--drain",
            help="Stop the service first, run the checks, then start and check the service again. Clients get no answers meanwhile.",
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
    back: Annotated[
        bool,
        typer.Option(
            "--return", help="Run all checks on quarantined hosts, and lift the quarantine of those that pass."
        ),
    ] = False,
    release: Annotated[bool, typer.Option("--release", hidden=True, help="The former name of --return.")] = False,
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
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Check that kernels run and compute correctly; without an inventory, on this machine.

    The service keeps running, and may answer more slowly. Measurements that it would distort are skipped, unless --drain is given.
    """
    from provision.phases.verify.selection import Picked
    from provision.pipeline import operations
    from provision.pipeline.verify import CheckOptions

    picked = Picked(tuple(only or ()), tuple(skip or ()), tuple(inject or ()))
    back = back or release
    if back:
        _require_full(hosts, options["limit"], partial=bool(picked.words or listed or level not in (None, "full")))
        options["limit"] = ",".join(hosts) if hosts else options["limit"]
    elif hosts:
        raise UsageError(
            f"`{' '.join(hosts)}` is no command of verify; hosts are named with --return",
            hint=f"./firstlight verify --limit {','.join(hosts)}",
        )
    level = "full" if back else level or "standard"
    if listed:
        raise typer.Exit(operations.list_checks(picked, level=level, as_json=as_json))
    request = asked("verify", ask_become_pass=ask_become_pass, prefix=prefix, **options)
    selection = picked if picked.words else None
    is_together = level != "quick" and selection is None and not back
    wanted = CheckOptions(level, drain=drain, multihost=is_together, selection=selection)
    raise typer.Exit(operations.verify(request, wanted, as_json=as_json, junit_file=junit, with_return=back))


def _require_full(hosts: list[str] | None, limit: str | None, *, partial: bool) -> None:
    """Check the options of a return to service.

    Raises:
        UsageError: They ask for fewer checks than all, or name the hosts twice.
    """
    if partial:
        raise UsageError(
            "a host returns to service after all checks of level full: --return takes no --level, --only, --skip, --inject or --list",
            hint="leave them out: ./firstlight verify --return",
        )
    if hosts and limit is not None:
        raise UsageError(
            f"hosts are named twice: `--limit {limit}` and `{' '.join(hosts)}`", hint="leave one of the two out"
        )


@app.command()
@with_hosts
def compare(
    *,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="BACKEND", help="An attention back end. Give the option twice."),
    ] = None,
    mode: Annotated[
        list[Mode] | None,
        typer.Option("--mode", metavar="MODE", help="Instead of back ends: --mode eager --mode compiled."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="MEASURE=PERCENT",
            help="The change that a measure must reach, in percent: first_token=-40.",
        ),
    ] = None,
    prefix: PrefixOption = None,
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Measure the service with two attention back ends, or eager and compiled; then restart it as it was."""
    from provision.pipeline.compare import compare as compare_choices

    named = tuple(dict.fromkeys(backend or mode or ()))
    if len(named) != 2 or (backend and mode):
        raise UsageError(
            f"two different choices are compared, {len(named)} given",
            hint="./firstlight verify compare --backend FLASH_ATTN --backend TRITON_ATTN",
        )
    option = "--backend" if backend else "--mode"
    words = [word for name in named for word in (option, name)]
    words += [word for text in target or () for word in ("--target", text)]
    request = asked("verify", ask_become_pass=ask_become_pass, prefix=prefix, **options)
    raise typer.Exit(compare_choices(request, words=words, as_json=as_json))


@app.command()
@with_hosts
def soak(
    *,
    minutes: Annotated[float, typer.Option("--minutes", metavar="N", min=0.1, help="Duration, in minutes.")],
    prefix: PrefixOption = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Also write the results to this file, as JUnit XML.")
    ] = None,
    ask_become_pass: BecomeOption = False,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Send requests and run kernels for some minutes; errors and growing memory are failures."""
    from provision.pipeline import operations
    from provision.pipeline.verify import CheckOptions

    request = asked("verify", ask_become_pass=ask_become_pass, prefix=prefix, **options)
    wanted = CheckOptions("quick", soak_minutes=minutes)
    raise typer.Exit(operations.verify(request, wanted, as_json=as_json, junit_file=junit))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def upgrade(
    context: typer.Context,
    python: Annotated[
        Path | None,
        typer.Option(
            "--python", metavar="PATH", help="A Python that has torch. Default: that of this machine's installation."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the attention code of your own PyTorch model by flash attention, and compare results and speed; the service is not changed."""
    from provision.phases.verify.model_upgrade import upgrade_model

    raise typer.Exit(upgrade_model([*context.args, *(["--json"] if as_json else [])], python))

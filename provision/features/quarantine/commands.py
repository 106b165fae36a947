"""`./firstlight verify --return`: hosts that are green again come back. The command `verify check` gets the option here."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Annotated, Any

import typer

from provision.cli.options import asked, takes
from provision.cli.verify import app
from provision.cli.verify import check as check_hosts
from provision.core.errors import UsageError
from provision.features.quarantine.quarantine import return_to_service
from provision.phases.verify.run_checks import CheckOptions
from provision.pipeline import operations

FEWER = ("only", "skip", "inject", "listed")
"""Options of `verify check` that ask for fewer checks than all."""


def check(
    *,
    hosts: Annotated[
        list[str] | None, typer.Argument(metavar="HOST", help="Hosts for --return. Default: all that are quarantined.")
    ] = None,
    back: Annotated[
        bool,
        typer.Option(
            "--return",
            help="A host with a hardware fault is quarantined, and later runs skip it. This runs all checks on such hosts, and returns those that pass to service.",
        ),
    ] = False,
    **options: Any,
) -> None:
    """Check hosts as `verify check` does, or return quarantined ones to service."""
    if not back:
        if hosts:
            raise UsageError(
                f"`{' '.join(hosts)}` is no command of verify; hosts are named with --return",
                hint=f"./firstlight verify --limit {','.join(hosts)}",
            )
        check_hosts(**options)
        return
    require_full(hosts or (), options)
    asks = {name: options[name] for name in ("inventory", "verbose", "prefix", "ask_become_pass", "as_json")}
    request = asked("verify", limit=",".join(hosts) if hosts else options["limit"], **asks)
    code = operations.verify(
        request,
        CheckOptions("full", drain=options["drain"]),
        junit_file=options["junit"],
        check_hosts=return_to_service,
    )
    raise typer.Exit(code)


def require_full(hosts: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise UsageError where the options of a return to service ask for fewer checks than all, or name the hosts twice."""
    if options["level"] not in (None, "full") or any(options[name] for name in FEWER):
        raise UsageError(
            "a host returns to service after all checks of level full: --return takes no --level, --only, --skip, --inject or --list",
            hint="leave them out: ./firstlight verify --return",
        )
    if hosts and options["limit"] is not None:
        raise UsageError(
            f"hosts are named twice: `--limit {options['limit']}` and `{' '.join(hosts)}`",
            hint="leave one of the two out",
        )


def add_to(program: typer.Typer) -> None:
    """Let `verify check` take the option."""
    del program
    with_return = takes(*signature(check_hosts).parameters.values())(check)
    with_return.__doc__ = check_hosts.__doc__
    app.command()(with_return)

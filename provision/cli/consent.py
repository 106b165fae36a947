"""Asks for consent before a host is changed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from provision.pipeline import CommandRequest


def require_consent(request: CommandRequest, change: str, *, yes: bool) -> None:
    """Ask whether a command may change its hosts; without a terminal there is nobody to ask, and it goes on.

    Args:
        request: The command.
        change: What it does, up to the names of the hosts.
        yes: Whether `--yes` was given.

    Raises:
        typer.Exit: The answer is no.
    """
    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    from provision.pipeline.runner import read_inventory
    from provision.report.layout import fold_names

    names = fold_names([host.name for host in read_inventory(request).hosts])
    if not consent(f"{change} {names}?"):
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(1)


def consent(what: str) -> bool:
    """Ask on standard error, and return whether the answer is yes; the end of standard input means no.

    Raises:
        KeyboardInterrupt: The person pressed Ctrl-C.
    """
    sys.stderr.write(f"{what} [y/N]: ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except BaseException:
        sys.stderr.write("\n")
        raise
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")

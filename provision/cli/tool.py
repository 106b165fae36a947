"""Commands about this tool itself: a first inventory, and its own Python environment."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from provision.core.errors import Exit, UsageError
from provision.core.folders import as_typed, product_path
from provision.core.own_environment import differences


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it is written; an existing file is kept.")],
) -> None:
    """Write an example inventory with comments, for you to edit."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"`{folder}` exists already", hint="name a new folder, or an empty one")
    shutil.copytree(product_path("inventory/example"), folder, dirs_exist_ok=True)
    typer.echo(f"{folder}/ is written: enter your hosts in hosts.yml")
    typer.echo(as_typed(f"./firstlight plan -i {shlex.quote(str(folder))}"))


def self_check() -> None:
    """Compare the Python packages that this tool runs with against those that it was tested with."""
    found = differences(product_path("requirements/run.txt").read_text(encoding="utf-8"))
    for line in found:
        typer.echo(line)
    if found:
        raise typer.Exit(Exit.RED)
    typer.echo("all packages are those that this release was tested with")

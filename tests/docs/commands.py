"""Reading a command as the product does, without running it."""

from typing import Any

import typer.main

from provision.cli.main import app
from verify.cli import upgrade as upgrade_cli


def parse(words: list[str]) -> None:
    """Parse the words behind `./firstlight`. Raises what the command line raises for a wrong one."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, words, parent=context)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    context = command.make_context(command.name, words, parent=context)
    if command.name == "upgrade":
        upgrade_cli._parser().parse_args(context.args)

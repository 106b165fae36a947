"""Groups of commands: one with a default command, and the one that was typed alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from typer import Typer
from typer.core import TyperGroup
from typer.main import get_command_name

HELP = ["-h", "--help"]


def with_default(command: str) -> type[TyperGroup]:
    """Return a group class in which arguments without a command belong to `command`."""

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            # Shell completion needs the names of the commands.
            named = ctx.resilient_parsing or (args and (args[0] in self.commands or args[0] in HELP))
            return super().parse_args(ctx, args if named else [command, *args])

    return WithDefault


def only_typed(app: Typer, words: Sequence[str]) -> Typer:
    """Return an application with the one command or group that the first word names; the whole one where it names none.

    Typer reads the options of every command that it knows: for all of ours that takes 0.02 s of each start.
    """
    typed = words[0] if words else ""
    narrow = copy(app)
    narrow.registered_commands = [
        one
        for one in app.registered_commands
        if (one.name or (get_command_name(one.callback.__name__) if one.callback else "")) == typed
    ]
    narrow.registered_groups = [one for one in app.registered_groups if one.name == typed]
    return narrow if narrow.registered_commands or narrow.registered_groups else app

"""Groups of commands with a default command."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

HELP = ["-h", "--help"]


def with_default(command: str) -> type[TyperGroup]:
    """Return a group class in which arguments without a command belong to `command`."""

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            # Shell completion needs the names of the commands.
            named = ctx.resilient_parsing or (args and (args[0] in self.commands or args[0] in HELP))
            return super().parse_args(ctx, args if named else [command, *args])

    return WithDefault

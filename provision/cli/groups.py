"""Groups of commands of which one is meant when none is named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

HELP = ["-h", "--help"]


def with_default(command: str) -> type[TyperGroup]:
    """A group in which words that name no command belong to `command`."""

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            # A shell that completes asks for the names of commands.
            named = ctx.resilient_parsing or (args and (args[0] in self.commands or args[0] in HELP))
            return super().parse_args(ctx, args if named else [command, *args])

    return WithDefault

"""Groups of commands: whole sentences in their help, sections, and a default command."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperArgument, TyperGroup

from provision.core.errors import UsageError

HELP = ["-h", "--help"]
SECTIONS = {
    "Provision": ("plan", "provision", "status", "chat"),
    "Operate": ("verify", "serve", "stop", "rollback", "uninstall"),
    "Diagnose": ("doctor", "logs", "probe", "drift"),
    "Fleet": ("rollout", "gateway", "monitoring", "bundle", "export"),
    "Advanced": ("stage", "install", "drivers", "wheels", "catalog", "init", "self-check", "completion", "help"),
}
"""The commands of the product, those of its features too, as a person looks for them; each is in one section."""


class HelpGroup(TyperGroup):
    """A group whose help has the first sentence of each command as a whole."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for command in self.commands.values():
            for argument in command.params:
                if isinstance(argument, TyperArgument):
                    # Typer appends the Python type of each argument: `FILE <list[str]>`.
                    argument.display_type_rich = lambda **_: None  # type: ignore[method-assign]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each title, and the remaining commands last."""
        del ctx
        listed = {name for names in self.sections.values() for name in names}
        rest = tuple(name for name in self.commands if name not in listed)
        for title, names in {**self.sections, "Commands": rest}.items():
            found = [(name, self.commands[name]) for name in names if name in self.commands]
            # The first paragraph of each command's help is on one line.
            texts = {name: (each.help or "").partition("\n\n")[0] for name, each in found if not each.hidden}
            if rows := [(name, " ".join(text.split())) for name, text in texts.items()]:
                with formatter.section(title):
                    formatter.write_dl(rows)


def command_group(text: str) -> typer.Typer:
    """Return a group of commands with this help."""
    return typer.Typer(cls=HelpGroup, no_args_is_help=True, rich_markup_mode=None, help=text)


class ProductGroup(HelpGroup):
    """The commands of the product."""

    sections = SECTIONS


def with_default(command: str) -> type[TyperGroup]:
    """Return a group class in which arguments without a command belong to `command`, whose options its help shows too."""

    class WithDefault(HelpGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            # Shell completion needs the names of the commands.
            named = ctx.resilient_parsing or (args and (args[0] in self.commands or args[0] in HELP))
            return super().parse_args(ctx, args if named else [command, *args])

        def format_options(self, ctx: Any, formatter: Any) -> None:
            default = self.commands[command]
            inner = type(ctx)(default, info_name=command, parent=ctx)
            records = [record for option in default.get_params(inner) if (record := option.get_help_record(inner))]
            with formatter.section(f"Options of `{command}`, which runs if no command is named"):
                formatter.write_dl(records)
            self.format_commands(ctx, formatter)

    return WithDefault


def help_of(context: Any, words: Sequence[str], *, everything: bool) -> str:
    """Return the help of a command, or of the whole program without words.

    With `everything` the commands below it follow, and hidden commands and options are shown too.

    Raises:
        UsageError: There is no such command.
    """
    for word in words:
        command = getattr(context.command, "commands", {}).get(word)
        if command is None:
            raise UsageError(f"`{' '.join(words)}` is no command", hint="./firstlight help lists the commands")
        context = type(context)(command, info_name=word, parent=context)
    if not everything:
        return str(context.get_help())
    return "\n\n".join(_pages(context))


def _pages(context: Any) -> Iterator[str]:
    """Yield the help of a command and of all commands below it, with what is hidden otherwise."""
    below = getattr(context.command, "commands", {})
    for hidden in (*context.command.params, *below.values()):
        hidden.hidden = False
    yield context.get_help()
    for name, command in below.items():
        yield from _pages(type(context)(command, info_name=name, parent=context))

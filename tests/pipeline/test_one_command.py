"""Of the commands only the typed one is made; it is what it would be among all."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from provision.cli.groups import only_typed
from provision.cli.main import app

WHOLE: Any = get_command(app)


def described(command: Any) -> Any:
    options = [(one.name, one.opts, one.secondary_opts, one.required) for one in command.params]
    inner = {name: described(one) for name, one in getattr(command, "commands", {}).items()}
    return type(command).__name__, command.name, command.help, options, inner


@pytest.mark.parametrize("name", sorted(WHOLE.commands))
def test_the_typed_command_is_there_alone_and_the_same(name: str) -> None:
    alone: Any = get_command(only_typed(app, [name, "--help"]))
    assert [*alone.commands] == [name]
    assert described(alone.commands[name]) == described(WHOLE.commands[name])


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["provsion"], ["--version", "provision"]])
def test_all_are_there_where_none_is_named_first(words: list[str]) -> None:
    assert only_typed(app, words) is app

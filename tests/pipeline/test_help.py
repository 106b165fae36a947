"""What `--help` shows: commands in sections, whole sentences, and the options of a group's default command."""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from provision.cli.groups import SECTIONS
from provision.cli.main import app

WHOLE: Any = get_command(app)
GROUPS = sorted(name for name, one in WHOLE.commands.items() if hasattr(one, "commands"))
DEFAULTS = {"verify": "--level", "rollout": "--steps", "gateway": "--inventory", "logs": "--follow"}


def shown(*words: str) -> str:
    ended = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_each_command_is_in_one_section() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(WHOLE.commands)
    text = shown()
    assert [line for line in text.splitlines() if line.rstrip(":") in SECTIONS] == [f"{title}:" for title in SECTIONS]


@pytest.mark.parametrize(
    "words", [(), *((name,) for name in GROUPS)], ids=lambda words: " ".join(words) or "firstlight"
)
def test_sentences_are_whole_and_fit(words: tuple[str, ...]) -> None:
    text = shown(*words)
    group = WHOLE if not words else WHOLE.commands[words[0]]
    joined = " ".join(text.split())
    for name, one in group.commands.items():
        assert f"{name} {' '.join(one.help.split(chr(10) * 2)[0].split())}" in joined
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("name", "option"), DEFAULTS.items())
def test_a_group_shows_the_options_that_people_type(name: str, option: str) -> None:
    assert option in shown(name)


def test_a_version_is_asked_for_as_a_version() -> None:
    assert "--vllm VERSION" in shown("plan")

"""What `--help` shows: commands in sections, whole sentences, and the options of a group's default command."""

import re
import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from provision.cli.groups import SECTIONS
from provision.cli.main import app
from provision.core.errors import Exit

WHOLE: Any = get_command(app)
GROUPS = sorted(name for name, one in WHOLE.commands.items() if hasattr(one, "commands"))
DEFAULTS = {"verify": "--level", "rollout": "--steps", "gateway": "--inventory", "logs": "--full"}


def ended(*words: str) -> str:
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def shown(*words: str) -> str:
    return ended(*words, "--help")


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
        if one.hidden:
            continue
        assert f"{name} {' '.join(one.help.split(chr(10) * 2)[0].split())}" in joined
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("name", "option"), DEFAULTS.items())
def test_a_group_shows_the_options_that_people_type(name: str, option: str) -> None:
    assert option in shown(name)


def test_arguments_are_named_once() -> None:
    assert shown("doctor").startswith("Usage: firstlight doctor [OPTIONS] [FILE]...\n")
    assert shown("gateway", "drain").startswith("Usage: firstlight gateway drain [OPTIONS] {HOST}...\n")


def test_help_is_a_command_with_the_exit_codes() -> None:
    text = ended("help")
    assert text.startswith(shown().rstrip())
    listed = re.findall(r"^  (\w+) ", text.partition("Exit codes:")[2], flags=re.MULTILINE)
    assert listed == [*(str(int(code)) for code in Exit), "verify"]
    assert ended("help", "bundle", "create") == shown("bundle", "create")


@pytest.mark.parametrize(("words", "hidden"), [(("verify",), "--inject")])
def test_what_only_maintainers_need_is_shown_by_help_all(words: tuple[str, ...], hidden: str) -> None:
    assert hidden not in shown(*words)
    code = f"from provision.cli.main import app; app(['help', '--all', *{words!r}])"  # it changes the commands
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert hidden in done.stdout

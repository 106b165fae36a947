"""`./firstlight verify load` and `provision --measure`: what a host is asked for, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from provision.cli.main import app
from provision.core.errors import UsageError
from provision.features.measure import commands, hooks
from provision.pipeline import CommandRequest
from provision.pipeline import commands as pipeline

Asked = list[tuple[str, str, tuple[str, ...], str | None]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What the hosts of commands are asked for: the command, that of the host, its arguments and what it reads."""
    found: Asked = []

    def measure(request: CommandRequest, kind: str, words: Any, stdin: str | None = None) -> int:
        found.append((request.command, kind, tuple(words), stdin))
        return 2

    for module in (commands, hooks):
        monkeypatch.setattr(module, "measure", measure)
    return found


def call(*words: str) -> int:
    """Run a command, and return its exit code. Raises UsageError."""
    done = CliRunner().invoke(app, words)
    if isinstance(done.exception, UsageError):
        raise done.exception
    return done.exit_code


def test_the_options_reach_the_host_and_a_file_of_prompts_goes_with_them(asked: Asked, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text("[]")
    assert call("verify", "load") == 2
    assert call("verify", "load", "--rate", "2.5", "--requests", "50", "--dataset", str(prompts)) == 2
    words = ("--rate", "2.5", "--requests", "50", "--dataset", "-")
    assert asked == [("verify", "load", (), None), ("verify", "load", words, "[]")]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("verify", "load", "--dataset", __file__, "--input-tokens", "9"), "the prompts of `--dataset` have their own"),
        (("verify", "load", "--requests", "9"), "`--requests` belongs to --rate or --concurrency"),
        (("provision", "--measure", "--json"), "`--measure` prints tables after the summary"),
        (("provision", "--measure", "--dry-run"), "`--measure` prints tables after the summary"),
    ],
)
def test_options_that_contradict_one_another_are_refused(words: tuple[str, ...], text: str, asked: Asked) -> None:
    with pytest.raises(UsageError) as raised:
        call(*words)
    assert (raised.value.args[0].startswith(text), asked) == (True, [])


def test_a_file_of_prompts_that_is_missing_or_too_large_is_refused(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"missing.json` cannot be read: No such file"):
        call("verify", "load", "--dataset", str(tmp_path / "missing.json"))
    (tmp_path / "large.json").write_text("[]")
    monkeypatch.setattr(commands, "LARGEST_DATASET", 1)
    with pytest.raises(UsageError, match=r"large.json` is larger than"):
        call("verify", "load", "--dataset", str(tmp_path / "large.json"))
    assert asked == []


def test_a_run_that_ends_well_is_followed_by_a_load(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = iter((0, 1, 0))
    monkeypatch.setattr(pipeline, "run", lambda _request: next(codes))
    assert [call("provision", "--measure"), call("provision", "--measure"), call("provision")] == [2, 1, 0]
    assert asked == [("verify", "load", (), None)]

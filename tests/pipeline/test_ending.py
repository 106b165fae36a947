"""How commands end, and where the cache lies: what the environment says, or lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from provision.cli import ending
from provision.pipeline.walking import cache_folder


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/firstlight")),
        ({"XDG_CACHE_HOME": "/x", "FIRSTLIGHT_CACHE": "/y"}, Path("/y")),
        ({"FIRSTLIGHT_CACHE": "~/y"}, Path.home() / "y"),
        ({}, Path.home() / ".cache" / "firstlight"),
    ],
)
def test_the_cache_lies_where_the_environment_says(environ: dict[str, str], folder: Path) -> None:
    assert cache_folder(environ) == folder


@pytest.mark.parametrize(("command", "code"), [("plan", 2), ("verify", 64)])
def test_an_account_without_a_home_is_told_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    def without_home() -> None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
        cache_folder({})

    monkeypatch.setattr(sys, "argv", ["firstlight", command])
    with pytest.raises(SystemExit) as end:
        ending.run(without_home)
    assert end.value.code == code
    assert "has no home folder" in capsys.readouterr().err


def test_what_is_a_fault_of_ours_keeps_its_trace() -> None:
    def broken() -> None:
        raise RuntimeError("dictionary changed size during iteration")

    with pytest.raises(RuntimeError, match="dictionary changed size"):
        ending.run(broken)

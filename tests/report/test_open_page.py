"""`./firstlight logs open`: the page of a run, and how to see it on a machine without a browser."""

import os
import webbrowser
from pathlib import Path

import pytest

from provision.core.errors import UsageError
from provision.core.run_folder import RunFolder
from provision.report.page import by_hand, has_display, write_and_open
from tests.report.sample import NEWER, OLDER


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a browser was asked to open, on a machine with a display."""
    asked: list[str] = []
    monkeypatch.setenv("BROWSER", "true")

    def ask(address: str) -> bool:
        asked.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", ask)
    return asked


def test_an_old_run_is_opened_by_name(logs: Path, opened: list[str]) -> None:
    path, message = write_and_open(logs, OLDER)
    assert (path, message) == (logs / OLDER / "summary.html", None)
    assert opened == [path.as_uri()]
    assert "<span>GREEN</span>" in path.read_text(encoding="utf-8")


def test_the_newest_run_is_opened_even_if_it_was_killed(logs: Path, opened: list[str]) -> None:
    path, _ = write_and_open(logs)
    assert path == logs / NEWER / "summary.html"
    assert "<span>RED</span>" in path.read_text(encoding="utf-8")


def test_the_page_is_only_written_on_request(logs: Path, opened: list[str]) -> None:
    path, message = write_and_open(logs, browser=False)
    assert path.exists()
    assert message is None
    assert opened == []


def test_a_running_run_has_no_page_yet(logs: Path) -> None:
    RunFolder(logs / NEWER).write("run.json", {"command": "provision", "pid": os.getpid()})
    with pytest.raises(UsageError, match="is still running"):
        write_and_open(logs)


def test_a_folder_that_cannot_be_written_is_reported(logs: Path) -> None:
    (logs / NEWER / "summary.html").mkdir()
    with pytest.raises(UsageError, match=r"summary\.html` cannot be written: Is a directory"):
        write_and_open(logs)


def test_without_a_display_the_way_to_the_page_is_explained(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(webbrowser, "open", lambda address: pytest.fail(f"opened {address}"))
    path, message = write_and_open(logs)
    assert message
    assert f":{path} ." in message


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({"BROWSER": "wslview"}, True),
    ],
)
def test_the_display_decides_if_a_browser_opens(environment: dict[str, str], *, expected: bool) -> None:
    assert has_display(environment) is expected


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ("192.0.2.7 51002 192.0.2.9 22", "@192.0.2.9:/srv/logs/summary.html ."),
        ("192.0.2.7 51002 192.0.2.9 2222", "scp -P 2222 "),
        ("2001:db8::7 51002 2001:db8::9 22", "@[2001:db8::9]:/srv/logs/summary.html"),
        ("", f"@{os.uname().nodename}:/srv/logs/summary.html ."),
    ],
)
def test_the_copy_command_uses_the_connection_of_the_user(connection: str, expected: str) -> None:
    assert expected in by_hand(Path("/srv/logs/summary.html"), {"SSH_CONNECTION": connection})

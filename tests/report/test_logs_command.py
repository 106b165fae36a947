"""`./firstlight logs ...` as a user types it: the effect of each form, and where its output goes."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from provision.cli import logs, main
from provision.core.errors import UsageError
from provision.report import summarise, write
from tests.report.sample import NEWER, OLDER, ran, result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs: a green one, then one with another port, in which the service failed."""
    for name, port in ((OLDER, 8000), (NEWER, 8100)):
        made = ran(tmp_path / name, port=port)
        if name == NEWER:
            made.results(result("a", "serve", "failed", text="port 8100 is taken"))
        write(made.run, summarise(made.run))
    monkeypatch.setattr(logs, "LOGS", tmp_path)
    return tmp_path


def typed(*words: str) -> Any:
    done = CliRunner().invoke(main.app, ["logs", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize("words", [(), (NEWER,), ("show",), ("show", NEWER), ("latest",)])
def test_the_newest_run_is_shown_by_each_of_its_names(folder: Path, words: tuple[str, ...]) -> None:
    assert typed(*words).stdout.startswith("RED: 1 host failed (a)")


def test_the_first_screen_is_shown_and_with_full_the_details(folder: Path) -> None:
    screen, whole = typed(OLDER).stdout, typed(OLDER, "--full").stdout
    assert screen.splitlines()[-1].split() == ["Details", "./firstlight", "logs", "show", OLDER, "--full"]
    assert typed().stdout.splitlines()[-1].endswith(" ./firstlight logs show --full")
    assert whole == (folder / OLDER / "summary.txt").read_text()
    assert "\nSeconds\n" in whole
    assert "\nSeconds\n" not in screen


def test_another_run_is_shown_by_its_name_and_as_json(folder: Path) -> None:
    assert typed(OLDER).stdout.startswith("GREEN: ")
    assert json.loads(typed(OLDER, "--json").stdout)["verdict"] == "green"


def test_list(folder: Path) -> None:
    assert [line.split()[:2] for line in typed("list").stdout.splitlines()] == [[NEWER, "red"], [OLDER, "green"]]
    assert [run["run"] for run in json.loads(typed("list", "--json").stdout)] == [NEWER, OLDER]


@pytest.mark.parametrize("words", [(), (OLDER,), (OLDER, NEWER)])
def test_diff(folder: Path, words: tuple[str, ...]) -> None:
    assert "settings: port: 8000 -> 8100" in typed("diff", *words).stdout
    [entry] = json.loads(typed("diff", *words, "--json").stdout)
    assert (entry["host"], entry["before"], entry["after"]) == ("a", OLDER, NEWER)


def test_prune(folder: Path) -> None:
    done = typed("prune", "--keep", "1")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].startswith("removed 0 runs")
    assert "the last green run of a" in done.stdout
    assert typed("prune", "--keep", "0").exit_code == 2


def test_bundle(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.tar.gz"
    assert str(target) in typed("archive", OLDER, "-o", str(target)).stdout
    with tarfile.open(target) as archive:
        assert f"firstlight-{OLDER}/summary.txt" in archive.getnames()
    with pytest.raises(UsageError, match="cannot be written"):
        typed("archive", "-o", "/proc/report.tar.gz")


def test_an_unknown_run_is_refused(folder: Path) -> None:
    for words in (("20260101T000000Z",), ("diff", "20260101T000000Z"), ("archive", "nonsense")):
        with pytest.raises(UsageError, match="no run"):
            typed(*words)


@pytest.mark.parametrize("place", ["fifo", "device", "new/folder/x.tar.gz", "."])
def test_a_bundle_replaces_no_device_and_makes_no_folder(folder: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / place
    if place == "fifo":
        os.mkfifo(target)
    if place == "device":
        target.symlink_to("/dev/null")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        typed("archive", OLDER, "-o", str(target))
    assert "hint: name another file: --output" in caught.value.render()
    assert folder.exists()
    if place == "fifo":
        assert target.is_fifo()
    assert Path("/dev/null").is_char_device()
    assert not (tmp_path / "new").exists()

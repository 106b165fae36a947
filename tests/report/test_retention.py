"""Which runs are kept: a pure function, and the removal of the folders."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from provision.cli.logs import app
from provision.core.run_folder import RunFolder
from provision.report import summarise, write
from provision.report.history import retention
from provision.report.history.retention import (
    KEEP_MIB,
    KEEP_RUNS,
    MOST_WAYS,
    PastRun,
    decide,
    prune,
    prune_quietly,
    render,
)
from provision.report.history.runs import GREEN_FILE, green_hosts, names
from tests.report.sample import Folder, check, ran


def past(run: str, *green: str, run_status: str = "ended", bytes_: int = 10) -> PastRun:
    return PastRun(run, run_status, bytes_, frozenset((name, None) for name in green))  # type: ignore[arg-type]


def kept(runs: list[PastRun], *, keep: int = 100, most_bytes: int = 10**9) -> dict[str, str]:
    return {entry.run: entry.why for entry in decide(runs, keep=keep, most_bytes=most_bytes) if entry.keep}


def test_runs_beyond_the_number_are_removed() -> None:
    assert list(kept([past(str(number)) for number in range(9, 0, -1)], keep=3)) == ["9", "8", "7"]


def test_by_size_the_newest_runs_are_kept() -> None:
    assert list(kept([past(str(number)) for number in range(9, 0, -1)], most_bytes=45)) == ["9", "8", "7", "6"]


def test_the_last_green_run_of_every_host_is_kept_whatever_the_limits() -> None:
    runs = [past("5"), past("4", "a"), past("3", "a", "b"), past("2", "a", "b", "c"), past("1", "c")]
    assert kept(runs, keep=1, most_bytes=1) == {
        "5": "the newest run",
        "4": "the last green run of a",
        "3": "the last green run of b",
        "2": "the last green run of c",
    }


def test_a_green_run_of_another_host_of_the_same_name_replaces_none() -> None:
    runs = [PastRun(run, "ended", 10, frozenset({("a", way)})) for run, way in (("3", "x"), ("2", "x"), ("1", "y"))]
    assert list(kept(runs, keep=1)) == ["3", "1"]


def test_a_host_that_is_made_anew_again_and_again_does_not_keep_every_run() -> None:
    runs = [PastRun(str(number), "ended", 10, frozenset({("a", number)})) for number in range(9, 0, -1)]
    assert len(kept(runs, keep=1)) == MOST_WAYS


pasts = st.builds(
    PastRun,
    run=st.just("x"),
    run_status=st.sampled_from(["ended", "running", "killed"]),
    bytes=st.integers(min_value=0, max_value=100),
    green=st.frozensets(st.tuples(st.sampled_from("abc"), st.none())),
)


@given(st.lists(pasts, min_size=1), st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=300))
def test_any_limits_keep_running_and_last_green_runs(runs: list[PastRun], keep: int, most_bytes: int) -> None:
    named = [PastRun(str(number), run.run_status, run.bytes, run.green) for number, run in enumerate(runs)]
    decisions = decide(named, keep=keep, most_bytes=most_bytes)
    assert [entry.run for entry in decisions] == [run.run for run in named]
    stay = {entry.run for entry in decisions if entry.keep}
    assert named[0].run in stay
    assert {run.run for run in named if run.run_status == "running"} <= stay
    for name in "abc":
        green = [run.run for run in named if (name, None) in run.green]
        assert not green or green[0] in stay


def run(logs: Path, name: str, *, warned: bool = False) -> Folder:
    folder = ran(logs / name, records=[check("host.clock", "warn")] if warned else None)
    write(folder.run, summarise(folder.run))
    return folder


def test_only_a_host_without_warnings_is_green(tmp_path: Path) -> None:
    sure, doubtful = run(tmp_path, "20261118T080000Z"), run(tmp_path, "20261119T080000Z", warned=True)
    assert green_hosts(sure.run.folder) == {"a"}
    assert green_hosts(doubtful.run.folder) == frozenset()


@pytest.mark.parametrize("damaged", ["damaged", "3", None])
def test_a_run_whose_note_of_green_hosts_is_damaged_has_none(tmp_path: Path, damaged: str | None) -> None:
    folder = run(tmp_path, "20261118T080000Z").run.folder
    (folder / GREEN_FILE).unlink()
    if damaged is not None:
        (folder / GREEN_FILE).write_text(damaged, encoding="utf-8")
    assert green_hosts(folder) == frozenset()


def test_folders_are_removed_completely_and_kept_runs_are_reported(tmp_path: Path) -> None:
    for number in range(1, 6):
        run(tmp_path, f"2026111{number}T080000Z", warned=number != 2)
    (tmp_path / "latest").symlink_to("20261115T080000Z")
    (tmp_path / "README.md").write_text("about\n", encoding="utf-8")
    (tmp_path / ".leaving-20261101T080000Z").mkdir()
    done = prune(tmp_path, keep=2)
    assert names(tmp_path) == ["20261115T080000Z", "20261114T080000Z", "20261112T080000Z"]
    assert sorted(path.name for path in tmp_path.iterdir() if "Z" not in path.name) == ["README.md", "latest"]
    text = render(done)
    assert text.splitlines()[0].startswith("removed 2 runs, ")
    assert "the last green run of a" in text
    assert "beyond the limit of 2 runs" in text
    assert not done.problems


def test_a_running_run_survives_the_strictest_limits(tmp_path: Path) -> None:
    going = RunFolder.create(tmp_path, command="provision")
    newer = tmp_path / "20990101T000000Z"
    RunFolder(newer).write("run.json", {"pid": 4194304})
    done = prune(tmp_path, keep=1, max_mib=1)
    assert names(tmp_path) == [newer.name, going.name]
    assert [decision.why for decision in done.decisions] == ["the newest run", "it is still running"]


def test_a_folder_that_cannot_be_removed_is_reported_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        run(tmp_path, f"2026111{number}T080000Z", warned=True)
    rename = Path.rename

    def refusing(path: Path, target: Path) -> Path:
        if path.name.startswith("20261112"):
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refusing)
    done = prune(tmp_path, keep=1)
    assert done.problems == ("run 20261112T080000Z cannot be removed: Permission denied",)
    assert names(tmp_path) == ["20261114T080000Z", "20261112T080000Z"]


def test_the_automatic_removal_waits_until_there_are_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "KEEP_RUNS", 10)
    for number in range(11):
        RunFolder(tmp_path / f"20261119T0800{number:02}Z").write("run.json", {})
    prune_quietly(tmp_path)
    assert len(names(tmp_path)) == 11
    RunFolder(tmp_path / "20261119T080011Z").write("run.json", {})
    prune_quietly(tmp_path)
    assert len(names(tmp_path)) == 10


def test_the_help_names_the_real_limits() -> None:
    text = CliRunner().invoke(app, ["prune", "--help"], env={"COLUMNS": "200"}).output
    assert f"Default: {KEEP_RUNS}." in text
    assert f"Default: {KEEP_MIB} MiB." in text


def test_the_size_of_a_run_is_that_of_its_files(tmp_path: Path) -> None:
    folder = run(tmp_path, "20261118T080000Z").run.folder
    os.truncate(folder / "summary.txt", 3 * 2**20)
    assert "3.0 MiB" in render(prune(tmp_path))


def test_a_file_that_is_renamed_meanwhile_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path, command="provision")
    run.path("plan.json").write_text("half")
    look = Path.lstat

    def gone(path: Path) -> os.stat_result:
        if path.name == "plan.json":
            raise FileNotFoundError(2, "No such file or directory", path)
        return look(path)

    monkeypatch.setattr(Path, "lstat", gone)
    [decision] = prune(tmp_path).decisions
    assert decision.bytes == run.path("run.json").stat().st_size

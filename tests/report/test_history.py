"""`./firstlight logs`: the list of runs, and the summary of one."""

import json
import os
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.errors import UsageError
from provision.core.run_folder import RunFolder, process_start
from provision.report import summarise, write
from provision.report.history import runs
from provision.report.history.runs import find, names, run_status
from provision.report.history.show import summary_text
from tests.report.sample import CPU_STACK, NEWER, Folder, host, result


def test_all_runs_are_listed_newest_first(logs: Path, snapshot: SnapshotAssertion) -> None:
    assert runs.list_text(logs) == snapshot


@pytest.mark.parametrize("run", [None, "latest"])
def test_the_newest_run_that_was_killed_before_its_summary_is_red(logs: Path, run: str | None) -> None:
    assert summary_text(logs, run).startswith("RED: ")
    assert not (logs / NEWER / "summary.txt").exists()


def test_a_running_run_is_not_a_killed_run(logs: Path) -> None:
    RunFolder(logs / NEWER).write("run.json", {"command": "provision", "pid": os.getpid()})
    assert run_status(find(logs)) == "running"
    with pytest.raises(UsageError, match=f"process {os.getpid()} is still running"):
        summary_text(logs)


def test_another_process_with_the_same_pid_is_not_the_run(logs: Path) -> None:
    began = process_start(os.getpid())
    assert began
    header = {"command": "provision", "pid": os.getpid(), "pid_start": began - 1}
    RunFolder(logs / NEWER).write("run.json", header)
    assert run_status(find(logs)) == "killed"


def test_list_as_json(logs: Path) -> None:
    killed, green = json.loads(runs.list_json(logs))
    assert (killed["run_status"], killed["verdict"], killed["hosts"]) == ("killed", None, 1)
    assert (green["verdict"], green["hosts"], green["seconds"]) == ("green", 1, 94.2)


def test_a_run_that_only_planned_has_the_outcome_planned(tmp_path: Path) -> None:
    folder = Folder(tmp_path / NEWER, [host("a", local=True)])
    folder.planned(["a"], CPU_STACK)
    folder.results(result("a", "probe"), result("a", "plan"))
    write(folder.run, summarise(folder.run))
    [only] = json.loads(runs.list_json(tmp_path))
    assert (only["verdict"], only["outcome"]) == ("green", "planned")
    assert " planned " in runs.list_text(tmp_path)


def test_the_tenth_run_of_a_second_comes_after_the_ninth(tmp_path: Path) -> None:
    for suffix in ("", "-2", "-9", "-10"):
        RunFolder(tmp_path / f"20261120T101500Z{suffix}").write("run.json", {})
    assert [name[16:] for name in names(tmp_path)] == ["-10", "-9", "-2", ""]


def test_an_unknown_run_names_the_nearest(logs: Path, snapshot: SnapshotAssertion) -> None:
    with pytest.raises(UsageError) as raised:
        summary_text(logs, "20261119T080001Z")
    assert raised.value.render().replace(str(logs), "LOGS") == snapshot


def test_a_folder_without_runs_is_reported(tmp_path: Path) -> None:
    assert runs.list_text(tmp_path).startswith("no run in")
    with pytest.raises(UsageError, match="no run in"):
        summary_text(tmp_path)

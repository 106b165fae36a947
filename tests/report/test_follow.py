"""`logs show --follow`: the lines of another process's run as they are written, until it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provision.core.run_folder import RunFolder
from provision.report.history.runs import run_status
from provision.report.history.show import follow_events, sentence

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of this process, which counts as running until it has a summary."""
    return RunFolder.create(tmp_path, command="provision")


def test_events_are_shown_as_they_are_written_and_an_incomplete_line_waits(run: RunFolder) -> None:
    run.event("enter", phase="probe")
    steps = iter(("half", "whole", "end"))

    def wait() -> None:
        step = next(steps)
        with run.path("events.jsonl").open("a", encoding="utf-8") as file:
            if step == "half":
                file.write('{"at": "2026-11-20T10:15:09.120Z", "kind": "locked", ')
            elif step == "whole":
                file.write('"host": "gpu-1", "phase": "install"}\n')
        if step == "end":
            run.event("result", host="gpu-1", phase="install", status="failed", text="no space left")
            run.write("summary.json", {})

    lines = [line.partition("] ")[2] for line in follow_events(run.folder, wait=wait)]
    assert lines == ["probe", "  gpu-1: locked for this run", "  gpu-1: install failed: no space left"]


def test_a_run_that_was_killed_is_read_to_its_end(run: RunFolder) -> None:
    run.event("enter", phase="probe")
    run.write("run.json", {"pid": 4194304})
    assert len(list(follow_events(run.folder, wait=lambda: pytest.fail("waited for a dead process")))) == 1


def test_following_changes_nothing(run: RunFolder) -> None:
    run.event("enter", phase="probe")
    before = {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    lines = follow_events(run.folder, wait=lambda: None)
    next(lines)
    lines.close()  # type: ignore[attr-defined]
    assert {path.name: path.stat().st_mtime_ns for path in run.folder.iterdir()} == before


def test_ctrl_c_ends_only_the_following(run: RunFolder) -> None:
    """The follower is another process, as for a user; this process is the run."""
    run.event("enter", phase="probe")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FIRSTLIGHT_LOGS": str(run.folder.parent)}
    command = [sys.executable, "-m", "provision", "logs", run.name, "--follow"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stderr
        assert follower.stderr.readline().rstrip().endswith("probe")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(timeout=60) == 130
    assert run_status(run.folder) == "running"


@pytest.mark.parametrize(
    "event",
    [{"kind": "trace", "trace": ["x"]}, {"kind": "sent", "bytes": "many"}, {"kind": "phase"}, {}],
    ids=["not for people", "foreign value", "foreign keys", "empty"],
)
def test_events_without_a_text_are_not_shown(event: dict[str, object]) -> None:
    assert sentence(event) is None


def test_text_of_a_host_cannot_control_the_terminal() -> None:
    lines = sentence({"at": "2026-11-20T10:15:09.120Z", "kind": "result", "phase": "serve", "host": "a",
                     "status": "failed", "text": "\x1b]0;owned\x07\x1b[2Jgone"})  # fmt: skip
    assert lines == "[10:15:09]   a: serve failed: gone"

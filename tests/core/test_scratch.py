"""Temporary folders and what a killed process leaves of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from provision.core.scratch import remove_left_folders, scratch_folder

HOLDER = """
import signal
from provision.core.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "secret").write_text("s")
    print(folder, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_private_and_removed_with_its_block(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").touch()
    assert list(temporary.iterdir()) == []


def test_only_folders_of_killed_processes_are_removed(temporary: Path) -> None:
    (temporary / "firstlight-of-others").mkdir()
    with (
        scratch_folder() as own,
        subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder,
    ):
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        remove_left_folders()
        assert (left / "secret").exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        remove_left_folders()
        assert {path.name for path in temporary.iterdir()} == {own.name, "firstlight-of-others"}


def test_a_removal_that_is_interrupted_goes_on_with_the_next_run(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[object] = []
    remove = os.rmdir

    def interrupted(path: str, **options: int) -> None:
        removed.append(path)
        if len(removed) == 64:
            raise KeyboardInterrupt
        remove(path, **options)

    block = scratch_folder()
    folder = block.__enter__()
    for number in range(64):
        (folder / f"work-{number}").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "rmdir", interrupted)
        with pytest.raises(KeyboardInterrupt):
            block.__exit__(None, None, None)
    assert folder.exists()
    remove_left_folders()
    assert list(temporary.iterdir()) == []


def test_a_pipe_of_this_name_stops_nobody(temporary: Path) -> None:
    (temporary / "firstlight-of-others").mkdir()
    os.mkfifo(temporary / "firstlight-of-others" / ".held")
    remove_left_folders()
    assert (temporary / "firstlight-of-others" / ".held").exists()

"""How an uninstallation sees that nothing is left: no prefix, and no process that has its files mapped."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

TASKS = Path(__file__).resolve().parents[2] / "playbooks/roles/uninstall/tasks/90_verify.yml"
MAPS = """
import mmap, sys
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 0)
print("mapped", flush=True)
sys.stdin.read()
"""


def is_clean(prefix: Path) -> bool:
    [task] = yaml.safe_load(TASKS.read_text(encoding="utf-8"))
    script = task["ansible.builtin.raw"]
    for text, value in (
        ("{{ firstlight_prefix | quote }}", str(prefix)),
        ("{{ (firstlight_prefix ~ '/envs/') | quote }}", f"{prefix}/envs/"),
    ):
        assert text in script
        script = script.replace(text, shlex.quote(value))
    return subprocess.run(["sh", "-c", script], check=False).returncode == 0


@contextmanager
def mapping(file: Path, *around: str) -> Iterator[None]:
    """Run a process that has a file mapped."""
    command = [*around, sys.executable, "-c", MAPS, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mapped\n"
        try:
            yield
        finally:
            process.communicate()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    file = tmp_path / "gone" / "envs" / "a" / "lib.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\0" * 4096)
    return file


def test_a_prefix_that_is_still_there_is_seen(tmp_path: Path) -> None:
    assert is_clean(tmp_path / "absent")
    assert is_clean(tmp_path), "a mount point, which cannot be removed"
    (tmp_path / ".nfs0001").touch()
    assert is_clean(tmp_path), "an open file on NFS"
    (tmp_path / "envs").mkdir()
    assert not is_clean(tmp_path)


def test_a_process_with_files_of_the_prefix_is_seen(library: Path, tmp_path: Path) -> None:
    with mapping(library):
        shutil.rmtree(tmp_path / "gone")
        assert not is_clean(tmp_path / "gone")
    assert is_clean(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="a namespace of processes wants root")
def test_a_process_of_a_container_is_not_ours(library: Path, tmp_path: Path) -> None:
    with mapping(library, "unshare", "--pid", "--fork"):
        shutil.rmtree(tmp_path / "gone")
        assert is_clean(tmp_path / "gone")

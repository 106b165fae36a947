"""The verification of role `cuda_compat`, with this machine's own loader; nothing is changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"


def verified(folder: Path, work: Path) -> tuple[int, str]:
    tasks = [{"ansible.builtin.include_tasks": str(PLAYBOOKS / "roles/cuda_compat/tasks/90_verify.yml")}]
    variables = {"firstlight_cuda_compat": {"folder": str(folder)}, "ansible_python_interpreter": sys.executable}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}
    (work / "play.yml").write_text(yaml.safe_dump([play]))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(work / "play.yml")]
    done = subprocess.run(command, cwd=PLAYBOOKS.parent, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def listed_folder() -> Path:
    """Return a folder that the loader's list names."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return Path(listed.splitlines()[-1].rpartition(" => ")[2]).parent


@pytest.mark.parametrize("there", [True, False])
def test_the_library_must_exist(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "cuda-13.0/compat"
    folder.mkdir(parents=True)
    if there:
        (folder / "libcuda.so.1").touch()
    status, output = verified(folder, tmp_path)
    assert (status == 0) is there, output
    assert ("libcuda.so.1 of localhost is not there" in output) is not there


def test_a_folder_that_every_program_searches_is_refused(tmp_path: Path) -> None:
    status, output = verified(listed_folder(), tmp_path)
    assert status != 0
    assert "shadows the driver's own library for every program (error 803)" in output

"""The verification of role `cuda_compat`, with this machine's own loader; nothing is changed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.install.scripts import ROLES, run_ansible

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Verify the folders of three hosts: with the library, without it, and one that the loader searches."""
    work = tmp_path_factory.mktemp("cuda-compat")
    searched = str(listed_folder()).lstrip("/")  # below the folder of the playbook, so that the library can be there
    for name in ("whole/compat", "empty/compat", searched):
        (work / name).mkdir(parents=True)
    for name in ("whole/compat", searched):
        (work / name / "libcuda.so.1").touch()
    (work / "hosts").write_text(
        f"whole folder={work}/whole/compat\nempty folder={work}/empty/compat\nshared folder={searched}\n"
    )
    tasks = [{"ansible.builtin.include_tasks": str(ROLES / "cuda_compat/tasks/90_verify.yml")}]
    variables = {"firstlight_cuda_compat": {"folder": "{{ folder }}"}, "ansible_python_interpreter": sys.executable}
    play = {"hosts": "all", "connection": "local", "gather_facts": False, "vars": variables, "tasks": tasks}
    (work / "play.yml").write_text(yaml.safe_dump([play]))
    done = run_ansible("ansible-playbook", "-i", "hosts", "play.yml", cwd=work)
    return work, " ".join((done.stdout + done.stderr).split())


def listed_folder() -> Path:
    """Return a folder that the loader's list names."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return Path(next(line for line in listed.splitlines() if " => " in line).rpartition(" => ")[2]).parent


def test_the_library_must_exist(verified: tuple[Path, str]) -> None:
    work, output = verified
    assert f"{work}/empty/compat/libcuda.so.1 of empty is not there" in output
    assert "libcuda.so.1 of whole is not there" not in output
    assert re.search(r"whole : ok=4 changed=0 unreachable=0 failed=0", output), output


def test_a_folder_that_every_program_searches_is_refused(verified: tuple[Path, str]) -> None:
    _, output = verified
    assert re.search(
        r"of shared is not there, or shadows the driver's own library for every program \(error 803\)", output
    )
    assert '"assertion": "firstlight_cuda_compat.folder ~ \'/\' not in cuda_compat_loader.stdout"' in output, output

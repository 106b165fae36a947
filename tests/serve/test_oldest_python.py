"""Programs that run in or beside an environment, under the oldest Python that an environment may have."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from provision.phases.plan.interpreter import OWN_FLOOR
from provision.phases.verify.tool import build_zipapp
from provision.run.desired_state import host_tools

pytestmark = pytest.mark.slow

OLDEST = OWN_FLOOR.removeprefix(">=")


@pytest.fixture(scope="module")
def oldest() -> str:
    """A Python of that minor release, in PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    named = [shutil.which(f"python{OLDEST}"), *map(str, pyenv.glob(f"versions/{OLDEST}.*/bin/python"))]
    for python in filter(None, named):
        # pyenv puts a program of that name into PATH even if it cannot run it.
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    pytest.skip(f"no Python {OLDEST} on this machine")


def run(python: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-I", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_proof_of_a_service_can_be_imported(oldest: str, tmp_path: Path) -> None:
    tools = {name: path for name, path in host_tools(tmp_path).items() if name != "verify.pyz"}
    program = "import sys; sys.path.insert(0, sys.argv[1]); import ready.prove, ready.log; ready.log.phases([], 0.0)"
    done = run(oldest, "-c", program, str(tools.pop("ready.pyz")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("preflight.pyz", "span.pyz"):
        assert run(oldest, str(tools.pop(name)), "--help", cwd=tmp_path).returncode == 0
    for path in tools.values():
        done = run(oldest, "-c", "import runpy, sys; runpy.run_path(sys.argv[1])", str(path), cwd=tmp_path)
        assert done.returncode == 0, f"{path.name}: {done.stderr}"


def test_the_checks_of_an_environment_can_be_listed(oldest: str, tmp_path: Path) -> None:
    done = run(oldest, str(build_zipapp(tmp_path / "verify.pyz")), "--list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kernels.gemm" in done.stdout

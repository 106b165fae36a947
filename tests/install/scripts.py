"""The scripts of the roles, run alone with the files that the tasks give them, and Ansible's own programs."""

import os
import subprocess
import sys
from pathlib import Path

from tests.install.modules import PLAYBOOKS

ROLES = PLAYBOOKS / "roles"


def script_text(script: str) -> str:
    """Return a script as its task sends it, with the code that finds a Python where it needs one."""
    finder = (ROLES / "base/files/find_python.sh").read_text() if script.startswith("base/files/prepare") else ""
    return finder + (ROLES / script).read_text()


def run_sh(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    environment |= {f"FIRSTLIGHT_{key.upper()}": value for key, value in variables.items()}
    command = ["sh", "-c", script_text(script)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def run_ansible(
    program: str, *words: str | Path, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of Ansible by hand, with these variables besides those of this process."""
    command = [Path(sys.executable).with_name(program), *words]
    environment = {**os.environ, "NO_COLOR": "1", **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

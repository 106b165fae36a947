"""The scripts of the roles, run alone with the files and the input that the tasks give them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROLES = Path(__file__).parents[2] / "playbooks" / "roles"


def script_text(script: str) -> str:
    """Return a script as its task sends it, with the code that finds a Python where it needs one."""
    finder = (ROLES / "base/files/find_python.sh").read_text() if script.startswith("base/files/prepare") else ""
    return finder + (ROLES / script).read_text()


def run_sh(script: str, *, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    environment |= {f"FIRSTLIGHT_{key.upper()}": value for key, value in variables.items()}
    text = script_text(script)
    return subprocess.run(["sh", "-c", text], input=stdin, capture_output=True, text=True, check=False, env=environment)


def run_python(script: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    text = (ROLES / script).read_text()
    return subprocess.run(
        [sys.executable, "-I", "-c", text, *arguments], input=stdin, capture_output=True, text=True, check=False
    )

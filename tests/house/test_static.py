"""Linters, formatter and type checker."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FRAGMENTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("requirements", "playbooks", "provision")
    for path in (ROOT / folder).rglob("*.sh")
)
"""Shell code that other programs send or source; its first line does not name the shell."""

TOOLS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "yamllint": ["yamllint", "--strict", "."],
    "ansible-lint": ["ansible-lint", "--offline", "--profile", "production", "playbooks"],
    "shellcheck": ["shellcheck", "--external-sources", "firstlight", ".ci/run"],
    "shellcheck-fragments": ["shellcheck", "--external-sources", "--shell=sh", *FRAGMENTS],
}
MARKS = {"mypy": pytest.mark.slow, "ansible-lint": pytest.mark.long(seconds=50)}


@pytest.mark.parametrize("tool", [pytest.param(tool, marks=MARKS.get(tool, ())) for tool in TOOLS])
def test_a_tool_reports_no_problem(tool: str) -> None:
    command = TOOLS[tool]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    is_missing = command[0] == "shellcheck" and shutil.which(command[0], path=path) is None
    if is_missing and not os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
        pytest.skip("shellcheck is not installed on this machine: the shell scripts are NOT CHECKED")
    environment = {**os.environ, "PATH": path, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}"

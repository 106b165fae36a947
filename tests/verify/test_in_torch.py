"""The tests that need torch, run where torch is."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.verify.torch_environment import IN_TORCH

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "in_torch"


def test_everything_that_needs_torch(torch_python: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [
            torch_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--confcutdir={FOLDER}",
            f"--junitxml={report}", f"--basetemp={tmp_path / 'inner'}", FOLDER,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    suite = next(ET.parse(report).iter("testsuite"))
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    pytestconfig.stash[IN_TORCH] = ", ".join(f"{number} {name}" for name, number in counts.items())
    assert counts["failures"] == counts["errors"] == counts["skipped"] == 0, done.stdout + done.stderr
    assert counts["tests"] >= len(list(FOLDER.glob("test_*.py")))
    assert done.returncode == 0

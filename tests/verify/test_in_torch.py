"""Runs the tests that need torch or vLLM in an environment that has them."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from tests.verify.torch_environment import IN_TORCH

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
LIMIT_S = 2700.0
"""Of a run that hangs. Those with vLLM took 281 s alone, and 900 s on slow processors that also started other servers."""
IN_VLLM = HERE / "in_vllm"
SERVED = {*IN_VLLM.glob("test_served_*.py")}
"""Tests of real servers, which each start."""


def run_there(python: Path, folder: Path, tmp_path: Path, files: Collection[Path] = ()) -> str:
    """Run tests of a folder with another Python and return their counts: these files, or all. All must pass, and none may be skipped."""
    chosen = sorted(files or folder.glob("test_*.py"))
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [
            python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.verify.loaded_modules",
            f"--confcutdir={folder}", f"--junitxml={report}", f"--basetemp={tmp_path / 'inner'}", *chosen,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    suite = next(ET.parse(report).iter("testsuite"))
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    assert counts["failures"] == counts["errors"] == counts["skipped"] == 0, done.stdout + done.stderr
    assert counts["tests"] >= len(chosen)
    assert done.returncode == 0
    return ", ".join(f"{number} {name}" for name, number in counts.items())


@pytest.mark.long(seconds=490)
def test_all_tests_that_need_torch_pass(
    torch_python: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property(IN_TORCH, run_there(torch_python, HERE / "in_torch", tmp_path))


@pytest.mark.long(seconds=680)
def test_all_tests_of_vllms_server_pass(vllm_python: Path, tmp_path: Path) -> None:
    run_there(vllm_python, IN_VLLM, tmp_path, SERVED)


@pytest.mark.long(seconds=100)
def test_all_other_tests_that_need_vllm_pass(vllm_python: Path, tmp_path: Path) -> None:
    run_there(vllm_python, IN_VLLM, tmp_path, {*IN_VLLM.glob("test_*.py")} - SERVED)

"""A card's day without a card: every step runs on the CPU, reports it, and keeps the results of the others. Figures of a card need a card."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.card import attention, day
from tests.verify.in_torch.conftest import ROOT
from verify.attention.cases import CASES
from verify.attention.providers import packed

ABOUT = {"device": "cpu"}
OWN = f"cp{sys.version_info.major}{sys.version_info.minor}"
TAGS = f"{OWN}-{OWN}-linux_{platform.machine()}.whl"


def test_each_step_is_done_and_a_broken_wheel_loses_no_other_result(tmp_path: Path) -> None:
    """At the level `quick`, from another folder, with a Python that has torch; the wheel fits by its name and is not an archive."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / f"flash_attn-2.8.3-{TAGS}").write_bytes(b"no wheel")
    out = tmp_path / "kept" / "card.json"
    words = ["--level", "quick", "--beside", str(tmp_path / "beside"), "--out", str(out)]
    command = [str(ROOT / "benchmarks/card/run"), *words]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    result: dict[str, Any] = json.loads(out.read_text())
    ended = {name: step["status"] for name, step in result["steps"].items()}
    assert ended == {**dict.fromkeys(day.STEPS, "done"), "wheel": "failed"}, done.stderr
    assert done.returncode == 1
    assert "BadZipFile" in result["steps"]["wheel"]["problem"]
    assert (result["on"], result["device"], result["card"]) == ("the CPU: no GPU is here", "cpu", None)
    assert result["torch"]
    found = {name: step.get("found") for name, step in result["steps"].items()}
    assert found["checks"]["level"] == "quick"
    assert set(found["injections"]["faults"]) >= {"wrong-result", "stale-library", "sick-gpu"}
    assert "SIGSEGV" in found["injections"]["ended"]["kernels.vector_add"]
    assert {row["case"] for row in found["attention"]} == {"decode one token", "causal"}
    assert all("us" in row["sdpa_math"] for row in found["attention"])
    assert any("original" in figure["name"] for figure in found["upgrade"]["figures"])


def test_a_python_without_torch_is_refused_with_the_next_command(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": f"{sys.base_prefix}/bin/python3"}
    command = [str(ROOT / "benchmarks/card/run"), "--out", str(tmp_path / "card.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch" in done.stderr
    assert "hint: run it by a Python that has torch" in done.stderr


def test_a_path_is_not_called_for_cases_that_it_cannot_compute() -> None:
    """torch would compute it anyway, without the cap."""
    capped = next(case for case in CASES if case.softcap)
    entry = attention.row(capped, "bfloat16", "cpu")
    assert {entry[path.name]["refuses"] for path in (packed.FLASH, packed.MATH)} == {"softcap"}


def test_a_step_that_takes_too_long_is_ended_with_its_processes(tmp_path: Path) -> None:
    one = day.Day(tmp_path, tmp_path, "quick", time.monotonic() + 60, dict(ABOUT))
    starts = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    cut = day._step(lambda day_, limit_s: day_.call(limit_s, "-c", starts), one, 2.0)
    assert (cut["status"], "cut after 2 s" in cut["problem"]) == ("failed", True)
    late = day.Day(tmp_path, tmp_path, "quick", time.monotonic(), dict(ABOUT))
    assert "no time was left" in day._step(day.attention, late, 50.0)["problem"]


def test_the_limits_of_all_steps_fit_into_eight_minutes() -> None:
    assert sum(limit_s for _, limit_s in day.STEPS.values()) <= day.WHOLE_S <= 480

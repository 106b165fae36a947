"""The command `wheels`: wrong options are reported before anything is fetched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


def wheels(cache: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "provision", "wheels", *words]
    environ = {**os.environ, "FIRSTLIGHT_CACHE": str(cache), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "code", "text", "hint"),
    [
        (("--torch", "9.9", "--arch", "90"), 2, "the catalog knows no torch 9.9", "catalog refresh"),
        (("numpy", "--torch", "2.11.0", "--arch", "90"), 2, "`numpy` names no release of a package", "NAME==VERSION"),
        (("--torch", "2.11.0", "--arch", "ninety"), 2, "`ninety` is no architecture", "--arch 9.0, or --arch 90"),
        (("--torch", "2.13.0+cpu", "--arch", "90"), 2, "torch 2.13.0+cpu is of no CUDA release", "--cuda 13.0"),
        (("--torch", "2.11.0+cu118", "--arch", "90"), 2, "there is no torch 2.11.0+cu118", "there are cu126"),
        (("--torch", "2.11.0+rocm7.2", "--arch", "90"), 2, "this command builds for CUDA", "firstlight_builder: HOST"),
        (("--torch", "2.1.0+cu118", "--arch", "90"), 1, "controller has no nvcc of CUDA 11.8", "CUDA 11.8 toolkit"),
        (("--torch", "2.11.0", "--arch", "75"), 1, "no recipe builds flash-attn", "it has kernels for 8.0, 8.6"),
        (("--torch", "2.11.0", "--arch", "90", "--builder", "nobody"), 1, "builder `nobody` is no host", "name one of"),
    ],
)
def test_a_wrong_option_is_named_with_a_hint(
    tmp_path: Path, words: tuple[str, ...], code: int, text: str, hint: str
) -> None:
    done = wheels(tmp_path, "build", *words)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(f"error: {text}")
    assert hint in done.stderr.partition("hint: ")[2]
    assert not (tmp_path / "files").exists()


def test_an_empty_build_cache_is_reported(tmp_path: Path) -> None:
    assert wheels(tmp_path, "list").stdout == "nothing was built yet\n"
    assert wheels(tmp_path, "list", "--json").stdout == "[]\n"

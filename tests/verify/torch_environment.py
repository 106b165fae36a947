"""An environment with torch, made once and kept outside the checkout: the checks need torch, the controller does not have it."""

from __future__ import annotations

import os
import platform
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from provision.artifacts.user_index import read_settings

TORCH = "2.13.0+cpu"
VENDOR_INDEX = "https://download.pytorch.org/whl/cpu"


IN_TORCH = pytest.StashKey[str]()
"""Where the test that stands for many leaves their counts, for the last lines of a run."""


class TorchMissingError(Exception):
    """torch could not be had; the text is uv's."""


def torch_python() -> Path:
    """The Python of the environment. Raises TorchMissingError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "firstlight-tests"
    folder = cache / f"torch-{TORCH}-py{platform.python_version()}-{platform.machine()}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            (folder / ".complete").touch()
    # pytest and hypothesis are those of this very process: same Python, so nothing more has to be fetched.
    shared = next(folder.glob("lib/python*/site-packages")) / "suite.pth"
    shared.write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return folder / "bin" / "python"


def _make(folder: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise TorchMissingError("uv is not installed")
    environment = {**os.environ, **_places()}
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], environment)
    install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), f"torch=={TORCH}"]
    try:
        _run(install, environment)
    except TorchMissingError:
        _run([*install, "--index", VENDOR_INDEX], environment)


def _places() -> dict[str, str]:
    """Where this user's pip looks, for uv, which keeps its own default index unless pip was given another one."""
    settings = read_settings()
    told = {
        "UV_DEFAULT_INDEX": settings.index or "",
        "UV_INDEX": " ".join(settings.extra_indexes),
        "UV_FIND_LINKS": ",".join(settings.find_links),
    }
    return {name: value for name, value in told.items() if value}


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TorchMissingError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}")

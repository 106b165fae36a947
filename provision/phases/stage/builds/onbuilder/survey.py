"""What the builder has: its C library, compilers and Pythons."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PYTHON_QUESTION = (
    "import json,platform,sysconfig,os,sys;h=os.path.join(sysconfig.get_paths()['include'],'Python.h');"
    "print(json.dumps([platform.python_version(),os.path.exists(h),sys.executable]))"
)


def survey(python: str, cuda: str) -> dict[str, Any]:
    """Facts of this machine for a build with a Python minor (`3.12`) and a CUDA release (`13.0`; empty for none)."""
    return {
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1] or None,
        "compiler": _first_line(["c++", "--version"]),
        "python": _python(python),
        "cuda_home": _toolkit(cuda) if cuda else None,
        "hipcc": shutil.which("hipcc") or _existing("/opt/rocm/bin/hipcc"),
    }


def release_of(nvcc: str) -> str:
    """The CUDA release of an nvcc (`13.0`), or nothing where it does not run."""
    found = re.search(r"release (\d+\.\d+)", _output([nvcc, "--version"]))
    return found.group(1) if found else ""


def _toolkit(cuda: str) -> dict[str, str] | None:
    """The toolkit to use: the first of these whose release is the wanted one, else the first of its major.

    1. CUDA_HOME; 2. nvcc on PATH; 3. /usr/local/cuda-RELEASE; 4. /usr/local/cuda; 5. /usr/local/cuda-MAJOR.*
    """
    homes = [os.environ.get("CUDA_HOME", ""), _home_of("nvcc")]
    homes += ["/usr/local/cuda-" + cuda, "/usr/local/cuda"]
    homes += sorted(str(path) for path in Path("/usr/local").glob("cuda-" + cuda.split(".", maxsplit=1)[0] + ".*"))
    found = []
    for home in homes:
        # A compiler without the runtime's headers is no toolkit that anything builds with.
        if home and Path(home, "include", "cuda_runtime.h").is_file():
            release = release_of(home + "/bin/nvcc")
            if release == cuda:
                return {"home": home, "release": release}
            if release.split(".")[0] == cuda.split(".", maxsplit=1)[0]:
                found.append({"home": home, "release": release})
    return found[0] if found else None


def _home_of(nvcc: str) -> str:
    """Where an nvcc on PATH really is, by its own word: what is called so there is often a script or a link."""
    found = re.search(r"^#\$ _HERE_=(.+)/bin$", _output([nvcc, "--dryrun", "-x", "cu", os.devnull]), re.MULTILINE)
    return found.group(1) if found else ""


def _python(minor: str) -> str | None:
    """A Python of a minor version with the headers that extensions need."""
    here = os.path.join(sys.base_prefix, "bin", "python" + minor)  # noqa: PTH118 (as a command)
    for command in (here, "python" + minor, sys.executable, "python3"):
        said = _output([command, "-I", "-c", PYTHON_QUESTION]).splitlines()
        if said and said[-1].startswith("["):
            version, headers, path = json.loads(said[-1])
            if headers and version.startswith(minor + "."):
                return str(path)
    return None


def _first_line(command: list[str]) -> str | None:
    lines = _output(command).splitlines()
    return lines[0] if lines else None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _existing(path: str) -> str | None:
    return path if Path(path).exists() else None

"""Properties of the build host: C library, compilers, Pythons; how many compilers run at once."""

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

HIPCC = "/opt/rocm/bin/hipcc"
_PYTHON_QUERY = (
    "import json,platform,sysconfig,os,sys;h=os.path.join(sysconfig.get_paths()['include'],'Python.h');"
    "print(json.dumps([platform.python_version(),os.path.exists(h),sys.executable]))"
)
GIB = 1 << 30


def read_facts(python: str, cuda: str) -> dict[str, Any]:
    """Return the properties for a build with a Python minor (`3.12`) and a CUDA release (`13.0`; empty for none)."""
    return {
        "machine": platform.machine(),
        "glibc": platform.libc_ver()[1] or None,
        "compiler": next(iter(_output(["c++", "--version"]).splitlines()), None),
        "python": _python(python),
        "cuda_home": _toolkit(cuda) if cuda else None,
        "hipcc": shutil.which("hipcc") or (HIPCC if Path(HIPCC).exists() else None),
    }


def release_of(nvcc: str) -> str:
    """Return the CUDA release of an nvcc (`13.0`); empty when it does not run."""
    found = re.search(r"release (\d+\.\d+)", _output([nvcc, "--version"]))
    return found.group(1) if found else ""


def _toolkit(cuda: str) -> dict[str, str] | None:
    """Return the first of these toolkits with the wanted release, else the first with its major.

    1. CUDA_HOME; 2. nvcc on PATH; 3. /usr/local/cuda-RELEASE; 4. /usr/local/cuda; 5. /usr/local/cuda-MAJOR.*
    """
    major = cuda.split(".", maxsplit=1)[0]
    # An nvcc on PATH is often a script or a link; it names its real folder.
    on_path = re.findall(r"^#\$ _HERE_=(.+)/bin$", _output(["nvcc", "--dryrun", "-x", "cu", os.devnull]), re.MULTILINE)
    homes = [os.environ.get("CUDA_HOME", ""), *on_path[:1], "/usr/local/cuda-" + cuda, "/usr/local/cuda"]
    homes += sorted(str(path) for path in Path("/usr/local").glob("cuda-" + major + ".*"))
    # A compiler without the runtime's headers cannot build extensions.
    whole = [home for home in homes if home and Path(home, "include", "cuda_runtime.h").is_file()]
    found = [{"home": home, "release": release_of(home + "/bin/nvcc")} for home in whole]
    same_major = [each for each in found if each["release"].split(".")[0] == major]
    return next((each for each in same_major if each["release"] == cuda), same_major[0] if same_major else None)


def _python(minor: str) -> str | None:
    """Return a Python of a minor version with the headers for extensions."""
    here = os.path.join(sys.base_prefix, "bin", "python" + minor)  # noqa: PTH118 (as a command)
    for command in (here, "python" + minor, sys.executable, "python3"):
        lines = _output([command, "-I", "-c", _PYTHON_QUERY]).splitlines()
        if lines and lines[-1].startswith("["):
            version, headers, path = json.loads(lines[-1])
            if headers and version.startswith(minor + "."):
                return str(path)
    return None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=30
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def jobs(cores: int, free: int, gib_each: float) -> int:
    """Return the number of parallel compilers: at most one a core, as many as memory allows, at least one."""
    return max(1, min(cores, int(free / (gib_each * GIB))))


def describe(cores: int, free: int, at_once: int, gib_each: float) -> str:
    """Describe the number of jobs and its reasons, with a warning when one compiler may need more memory than is free."""
    text = "{:.1f} GiB free, {} cores: {} at once".format(free / GIB, cores, at_once)  # noqa: UP032 (for Python 3.8)
    if free < gib_each * GIB:
        text += "; one may need {:.0f} GiB and be killed for lack of memory".format(gib_each)  # noqa: UP032 (as above)
    return text

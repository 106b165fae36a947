# ruff: noqa: INP001 - a script that is complete in itself, not a part of the package
"""Build the C interface of flash attention against the torch of the Python that runs this script.

    PYTHON verify/cabi/build.py [--output FOLDER]

It is one compiler command, which is shown. `CXX` names another compiler than c++, `CXXFLAGS` adds options to it.
This folder is complete in itself: it can be copied to a host and built there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "libflash_attn.so"
HEADER = "flash_attn.h"
FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden")


def build_command(torch: Path, output: Path, *, cxx11_abi: bool, environment: Mapping[str, str]) -> list[str]:
    """Return the compiler's command.

    Args:
        torch: Folder of the torch package, with `include` and `lib`.
        output: The library to write.
        cxx11_abi: Whether torch was compiled with the C++ ABI of GCC 5 and later.
        environment: Variables, of which `CXX` and `CXXFLAGS` count.
    """
    libraries = torch / "lib"
    return [
        *shlex.split(environment.get("CXX") or "c++"),
        *FLAGS,
        f"-D_GLIBCXX_USE_CXX11_ABI={int(cxx11_abi)}",
        "-isystem", str(torch / "include"),
        *shlex.split(environment.get("CXXFLAGS", "")),
        str(HERE / "flash_attn.cpp"),
        "-o", str(output),
        # libtorch.so brings the GPU's library where torch has one, though nothing here names it.
        f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0: built; 1: the compiler failed; 3: torch or the compiler is missing."""
    parser = argparse.ArgumentParser(
        description="Build libflash_attn.so, the C interface of flash attention, against this Python's torch.",
        epilog="exit codes: 0 built, 1 the compiler failed, 3 torch or the compiler is missing",
    )
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=Path("build"), help="default: ./build")
    folder = parser.parse_args(arguments).output.resolve()
    try:
        import torch  # noqa: PLC0415 - its absence is reported
    except ImportError as error:
        return _refuse(f"torch does not import: {error}", "run this with the Python of an environment that has torch")
    target, unfinished = folder / LIBRARY, folder / f".{LIBRARY}.{os.getpid()}"
    place = Path(torch.__file__).parent.resolve()
    command = build_command(place, unfinished, cxx11_abi=torch.compiled_with_cxx11_abi(), environment=os.environ)
    if shutil.which(command[0]) is None:
        return _refuse(
            f"`{command[0]}` is not installed", "install g++ (gcc-c++ in RPM families), or name one with CXX"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sys.stderr.write(f"{shlex.join(command)}\n")
        if code := subprocess.run(command, check=False).returncode:
            sys.stderr.write(f"error: the compiler ended with `{code}`\n\nhint: its messages are above\n")
            return 1
        unfinished.replace(target)
        shutil.copyfile(HERE / HEADER, folder / HEADER)
    except OSError as error:
        return _refuse(f"`{folder}` cannot be written: {error.strerror}", "name another folder with --output")
    finally:
        unfinished.unlink(missing_ok=True)
    sys.stdout.write(f"{target}\n")
    return 0


def _refuse(problem: str, hint: str) -> int:
    sys.stderr.write(f"error: {problem}\n\nhint: {hint}\n")
    return 3


if __name__ == "__main__":
    sys.exit(main())

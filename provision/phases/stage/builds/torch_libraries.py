"""The frozen torch: what its libraries export, read from its wheel in the wheelhouse."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from verify.elf import map_library

_FIRST = (
    "libc10.so",
    "libc10_cuda.so",
    "libc10_hip.so",
    "libtorch_python.so",
    "libtorch_cpu.so",
    "libtorch_cuda.so",
    "libtorch_hip.so",
)
"""Where extensions find what they want of torch, the small libraries first: one of a gigabyte is unpacked only when it must be."""


def missing_symbols(torch: Path, wanted: frozenset[str]) -> frozenset[str]:
    """Which of the symbols no library in a torch wheel defines."""
    missing = wanted
    with zipfile.ZipFile(torch) as archive:
        members = {Path(name).name: name for name in archive.namelist() if name.startswith("torch/lib/lib")}
        for library in (name for name in _FIRST if name in members):
            if not missing:
                break
            with archive.open(members[library]) as packed, tempfile.TemporaryFile() as file:
                shutil.copyfileobj(packed, file)
                file.flush()
                missing -= map_library(file).symbols()[1]
    return missing

"""The symbols that torch's libraries export, read from its wheel."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from verify.binaries.elf import map_library

_FIRST = (
    "libc10.so",
    "libc10_cuda.so",
    "libc10_hip.so",
    "libtorch_python.so",
    "libtorch_cpu.so",
    "libtorch_cuda.so",
    "libtorch_hip.so",
)
"""Libraries with the symbols that extensions need, small ones first: a library of a gigabyte is unpacked only when necessary."""


def missing_symbols(torch: Path, wanted: frozenset[str]) -> frozenset[str]:
    """Return the symbols that no library in a torch wheel defines."""
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

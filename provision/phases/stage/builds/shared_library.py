"""Requirements and contents of a shared library, read from the file without loading it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from provision.catalog.versions import numbers
from provision.core.errors import StageError
from verify.binaries.cxx_abi import is_of_torch
from verify.binaries.elf import Elf
from verify.binaries.gpu_code import CUDA_SECTION, HIP_SECTION, cuda_codes, hip_codes

_GLIBC = re.compile(r"GLIBC_(\d+(?:\.\d+)+)")


@dataclass(frozen=True)
class Library:
    """One shared library."""

    machine: str
    needed: frozenset[str]
    """File names of the libraries that it is linked with."""
    torch_symbols: frozenset[str]
    """Symbols of torch that it needs; without them the loader rejects it."""
    glibc: str | None
    """The newest symbol version of the C library that it needs."""
    codes: frozenset[str]
    """Its GPU code."""


def read_library(content: bytes, name: str) -> Library:
    """Read a 64-bit ELF library.

    Raises:
        StageError: The content is not a complete library.
    """
    try:
        elf = Elf(memoryview(content))
        versions = [match[1] for version in elf.versions() if (match := _GLIBC.fullmatch(version))]
        sections = ((elf.section(CUDA_SECTION), cuda_codes), (elf.section(HIP_SECTION), hip_codes))
        return Library(
            machine=elf.machine,
            needed=elf.needed(),
            torch_symbols=frozenset(filter(is_of_torch, elf.symbols()[0])),
            glibc=max(versions, key=numbers, default=None),
            codes=frozenset(code for section, read in sections if section is not None for code in read(section)),
        )
    except (ValueError, struct.error, IndexError) as error:
        raise StageError(
            f"`{name}` is not a complete shared library: {error}", hint="build or fetch the wheel again"
        ) from error
